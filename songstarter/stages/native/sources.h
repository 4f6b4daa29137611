/* Which sources a library was compiled from: compile.py says it to the compiler, processor.py asks the library. */

#ifndef SONGSTARTER_SOURCES_H
#define SONGSTARTER_SOURCES_H

const char songstarter_sources[] = SOURCES;

#endif
