/* Threads that compute a call together: each does its share of a part, then all meet before the next.

   They spin at a meeting, which is microseconds away, and sleep between calls. */

#ifndef SONGSTARTER_TEAM_H
#define SONGSTARTER_TEAM_H

#include <immintrin.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { MOST_THREADS = 64, SPINS = 4000 };

typedef struct {
    int threads;
    void (*work)(void *of, int number); /* what one call makes every thread do; `number` is from 0 */
    void *of;
    atomic_int arrived, meetings;
    atomic_int next; /* of things that whoever is free takes; 0 after every meeting */
    atomic_int calls;
    int closing;
    pthread_mutex_t mutex;
    pthread_cond_t begin;
    pthread_t others[MOST_THREADS];
} Team;

typedef struct {
    Team *team;
    int number;
} Member;

static void meet(Team *t) {
    int before = atomic_load(&t->meetings);
    if (atomic_fetch_add(&t->arrived, 1) == t->threads - 1) {
        atomic_store(&t->arrived, 0);
        atomic_store(&t->next, 0);
        atomic_store(&t->meetings, before + 1);
        return;
    }
    for (int spins = 0; atomic_load(&t->meetings) == before; spins++)
        if (spins < SPINS)
            _mm_pause();
        else
            sched_yield(); /* who is missing may need this core */
}

/* The part of `count` things, in whole units, that falls to a thread. */
static void share(const Team *t, int number, int count, int unit, int *from, int *to) {
    int units = (count + unit - 1) / unit;
    *from = units * number / t->threads * unit;
    *to = units * (number + 1) / t->threads * unit;
}

static int wait_for_call(Team *t, int seen) {
    for (int spins = 0; spins < SPINS && atomic_load(&t->calls) == seen; spins++)
        _mm_pause();
    pthread_mutex_lock(&t->mutex);
    while (atomic_load(&t->calls) == seen && !t->closing)
        pthread_cond_wait(&t->begin, &t->mutex);
    int closing = t->closing;
    pthread_mutex_unlock(&t->mutex);
    return !closing;
}

static void *serve(void *argument) {
    Member me = *(Member *)argument;
    free(argument);
    for (int seen = 0; wait_for_call(me.team, seen); seen++)
        me.team->work(me.team->of, me.number);
    return NULL;
}

/* Do one call's work with everybody; `work` must end in a meeting. */
static void call_all(Team *t) {
    if (t->threads > 1) {
        pthread_mutex_lock(&t->mutex);
        atomic_fetch_add(&t->calls, 1);
        pthread_cond_broadcast(&t->begin);
        pthread_mutex_unlock(&t->mutex);
    }
    t->work(t->of, 0);
}

/* As many threads as can be had, `threads` at most, the caller's own among them. */
static void gather(Team *t, int threads, void (*work)(void *, int), void *of) {
    t->work = work;
    t->of = of;
    pthread_mutex_init(&t->mutex, NULL);
    pthread_cond_init(&t->begin, NULL);
    for (t->threads = 1; t->threads < threads && t->threads < MOST_THREADS; t->threads++) {
        Member *member = malloc(sizeof *member);
        if (!member)
            return;
        *member = (Member){t, t->threads};
        if (pthread_create(&t->others[t->threads], NULL, serve, member)) {
            free(member);
            return;
        }
    }
}

static void dismiss(Team *t) {
    pthread_mutex_lock(&t->mutex);
    t->closing = 1;
    pthread_cond_broadcast(&t->begin);
    pthread_mutex_unlock(&t->mutex);
    for (int number = 1; number < t->threads; number++)
        pthread_join(t->others[number], NULL);
}

#endif
