/* Threads that compute a call together: each does its share of a part, then all meet before the next.

   They spin at a meeting, which is microseconds away, and sleep between calls. Where something else wants a core of
   theirs, all wait at every meeting for the one that lost it, and fewer would be faster: after a call that was waited
   away like that, some calls go on with one thread fewer, more of them each time that it was no use to try again. */

#ifndef SONGSTARTER_TEAM_H
#define SONGSTARTER_TEAM_H

#include <immintrin.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

enum {
    MOST_THREADS = 64,
    SPINS = 4000,          /* of a meeting: longer than the members of a team ever differ by themselves */
    FEWEST_CALLS_APART = 4, /* between two trials of one thread more */
    MOST_CALLS_APART = 64,
    PACKED = 2 * MOST_THREADS,
};

typedef struct {
    int threads;
    int working;                             /* of them, in this call: the first ones */
    void (*work)(void *of, int number);      /* what one call makes every thread do; `number` is from 0 */
    void *of;
    atomic_int arrived, meetings;
    atomic_int next;                         /* of things that whoever is free takes; 0 after every meeting */
    atomic_llong lost;                       /* ticks beyond spinning, of all that waited in this call; roughly: who
                                                has just woken up may add to the next call's */
    int until_more, calls_apart;             /* calls until one thread more is tried; and between trials */
    atomic_int calls;                        /* of several threads, times PACKED, and how many work in the last */
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
    int before = atomic_load(&t->meetings), last = t->working - 1; /* after the last meeting it may change */
    if (atomic_fetch_add(&t->arrived, 1) == last) {
        atomic_store(&t->arrived, 0);
        atomic_store(&t->next, 0);
        atomic_store(&t->meetings, before + 1);
        return;
    }
    long long late = 0;
    for (int spins = 0; atomic_load(&t->meetings) == before; spins++)
        if (spins < SPINS)
            _mm_pause();
        else {
            late = late ? late : (long long)__rdtsc();
            sched_yield(); /* who is missing may need this core */
        }
    if (late)
        atomic_fetch_add(&t->lost, (long long)__rdtsc() - late);
}

/* The part of `count` things, in whole units, that falls to a thread. */
static void share(const Team *t, int number, int count, int unit, int *from, int *to) {
    int units = (count + unit - 1) / unit;
    *from = units * number / t->working * unit;
    *to = units * (number + 1) / t->working * unit;
}

/* The next call of several threads behind the last that was seen; -1 at the end. */
static int wait_for_call(Team *t, int seen) {
    for (int spins = 0; spins < SPINS && atomic_load(&t->calls) == seen; spins++)
        _mm_pause();
    pthread_mutex_lock(&t->mutex);
    while (atomic_load(&t->calls) == seen && !t->closing)
        pthread_cond_wait(&t->begin, &t->mutex);
    int found = t->closing ? -1 : atomic_load(&t->calls);
    pthread_mutex_unlock(&t->mutex);
    return found;
}

static void *serve(void *argument) {
    Member me = *(Member *)argument;
    free(argument);
    for (int seen = 0; (seen = wait_for_call(me.team, seen)) >= 0;)
        if (me.number < seen % PACKED)
            me.team->work(me.team->of, me.number);
    return NULL;
}

/* Choose the next call's threads by this one's ticks: one of n takes an n-th of the work, and must not cost more. */
static void learn(Team *t, long long ticks) {
    if (t->working > 1 && atomic_load(&t->lost) * t->working > ticks * (t->working - 1)) {
        int doubled = t->calls_apart * 2;
        t->calls_apart = doubled > MOST_CALLS_APART ? MOST_CALLS_APART : doubled;
        t->until_more = t->calls_apart;
        t->working--;
    } else if (t->working < t->threads && --t->until_more <= 0) {
        t->until_more = t->calls_apart;
        t->working++;
    } else if (t->working == t->threads)
        t->calls_apart = FEWEST_CALLS_APART / 2;
}

/* Do one call's work with everybody that is of use; `work` must end in a meeting. */
static void call_all(Team *t) {
    long long began = (long long)__rdtsc();
    atomic_store(&t->lost, 0);
    if (t->working > 1) {
        pthread_mutex_lock(&t->mutex);
        int count = atomic_load(&t->calls) / PACKED + 1;
        atomic_store(&t->calls, count % (1 << 20) * PACKED + t->working);
        pthread_cond_broadcast(&t->begin);
        pthread_mutex_unlock(&t->mutex);
    }
    t->work(t->of, 0);
    learn(t, (long long)__rdtsc() - began);
}

/* As many threads as can be had, `threads` at most, the caller's own among them. */
static void gather(Team *t, int threads, void (*work)(void *, int), void *of) {
    t->work = work;
    t->of = of;
    pthread_mutex_init(&t->mutex, NULL);
    pthread_cond_init(&t->begin, NULL);
    t->calls_apart = FEWEST_CALLS_APART / 2;
    for (t->threads = t->working = 1; t->threads < threads && t->threads < MOST_THREADS; t->working = ++t->threads) {
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
