/* Reads Redis's answers to XREAD: when one is whole, and the id of its last entry, after which the next one asks. */
#ifndef TIDEMARK_BENCH_RESP_H
#define TIDEMARK_BENCH_RESP_H
#include "bench.h"

/* Longer strings (the events) are skipped, shorter ones (ids, names) read like lines. */
#define RESP_SHORT 40
/* Entries of an answer at most. */
#define XREAD_COUNT 1000

typedef struct {
  char line[RESP_SHORT + 2], id[RESP_SHORT];
  int have, is_text;
  uint64_t skip;  /* bytes of a long string that are still to come */
  int64_t missing; /* values of the answer that are still to come */
} Reply;

/* Asks for what came after the last id, from the beginning at first; waits when there is nothing. */
static inline void xread(Reply *r, int fd, const char *stream) {
  char request[256];
  int n = snprintf(request, sizeof request, "XREAD COUNT %d BLOCK 0 STREAMS %s %s\r\n", XREAD_COUNT, stream,
                   r->id[0] == 0 ? "0" : r->id);
  r->missing = 1;
  write_all(fd, request, (size_t)n);
}

/* A line: the head of a value, or a short string. */
static inline void reply_line(Reply *r) {
  long n = atol(r->line + 1);
  if (r->is_text) {
    if (r->line[0] >= '0' && r->line[0] <= '9' && strchr(r->line, '-') != NULL) memcpy(r->id, r->line, sizeof r->id);
    r->is_text = 0;
    r->missing--;
  } else if (r->line[0] == '*' && n > 0) r->missing += n - 1;
  else if (r->line[0] == '$' && n >= 0 && n < RESP_SHORT) r->is_text = 1;
  else {
    if (r->line[0] == '-') fprintf(stderr, "refused: %s\n", r->line), exit(1);
    if (r->line[0] == '$' && n > 0) r->skip = (uint64_t)n + 2;
    r->missing--;
  }
}

/* Takes bytes of an answer, however reads cut it; true when they end it. */
static inline int take_reply(Reply *r, const uint8_t *p, size_t n) {
  for (const uint8_t *end = p + n; p < end;) {
    if (r->skip > 0) {
      uint64_t take = (uint64_t)(end - p) < r->skip ? (uint64_t)(end - p) : r->skip;
      r->skip -= take;
      p += take;
    } else if (*p == '\n') {
      r->line[r->have] = 0;
      r->have = 0;
      reply_line(r);
      p++;
    } else {
      if (*p != '\r' && r->have < RESP_SHORT) r->line[r->have++] = (char)*p;
      p++;
    }
  }
  return r->missing == 0 && r->skip == 0;
}
#endif
