/* What load.c, drain.c and send.c share: clocks, a histogram, files, loopback sockets, a walk over WebSocket frames. */
#ifndef TIDEMARK_BENCH_H
#define TIDEMARK_BENCH_H
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* Every masked byte of a request file is XORed with this (requests.ts): all four bytes of the mask are the same. */
#define MASK 0x5a
/* An event's data begins {"t":1763840880123456, ... : microseconds since 1970, 16 digits. */
#define STAMP "\"t\":"
#define STAMP_DIGITS 16
/* In the name of a channel: six digits of its number take its place. */
#define TURN "{turn}"

static inline void fail(const char *what) {
  fprintf(stderr, "%s: %s\n", what, errno ? strerror(errno) : "unexpected");
  exit(1);
}

static inline double clock_us(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return t.tv_sec * 1e6 + t.tv_nsec * 1e-3;
}
static inline double now_us(void) { return clock_us(CLOCK_MONOTONIC); }
static inline double epoch_us(void) { return clock_us(CLOCK_REALTIME); }

/* CPU seconds of this process so far. */
static inline double cpu_seconds(void) {
  struct rusage r;
  getrusage(RUSAGE_SELF, &r);
  return r.ru_utime.tv_sec + r.ru_stime.tv_sec + (r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6;
}

static inline void *reserve(void *old, size_t bytes) {
  void *p = realloc(old, bytes);
  if (p == NULL) fail("memory");
  return p;
}

/* ---- Histogram of microseconds: 64 slots to each doubling, so a percentile is exact to 1.6 %. ---- */
#define HIST_SLOTS (64 * 40)
typedef struct {
  uint64_t count, max;
  uint64_t slots[HIST_SLOTS];
} Hist;

static inline void hist_add(Hist *h, double us) {
  uint64_t v = us > 0 ? (uint64_t)us : 0;
  int slot = (int)v;
  if (v >= 64) {
    int shift = 57 - __builtin_clzll(v);
    slot = (shift + 1) * 64 + (int)((v >> shift) - 64);
  }
  h->slots[slot < HIST_SLOTS ? slot : HIST_SLOTS - 1]++;
  h->count++;
  if (v > h->max) h->max = v;
}

/* Microseconds below which the share `p` of the values lies; 0 when there are none. */
static inline double hist_at(const Hist *h, double p) {
  uint64_t want = (uint64_t)(h->count * p), seen = 0;
  for (int i = 0; i < HIST_SLOTS && h->count > 0; i++) {
    seen += h->slots[i];
    if (seen > want) return i < 64 ? i : (double)((uint64_t)(i % 64 + 64) << (i / 64 - 1));
  }
  return (double)h->max;
}

/* Prints which slots hold how many values: [[slot,count],…]. */
static inline void hist_print(const Hist *h) {
  const char *between = "";
  putchar('[');
  for (int i = 0; i < HIST_SLOTS; i++) {
    if (h->slots[i] == 0) continue;
    printf("%s[%d,%lu]", between, i, h->slots[i]);
    between = ",";
  }
  putchar(']');
}

/* ---- Channels in turn ---- */
/* Where TURN stands in bytes that are XORed with `mask`; NULL where it does not. */
static inline uint8_t *find_turn(uint8_t *p, size_t n, uint8_t mask) {
  char text[] = TURN;
  for (size_t i = 0; i < sizeof TURN - 1; i++) text[i] ^= (char)mask;
  return memmem(p, n, text, sizeof TURN - 1);
}

static inline void put_turn(uint8_t *at, uint64_t turn, uint8_t mask) {
  for (size_t d = sizeof TURN - 1; d > 0; d--, turn /= 10) at[d - 1] = (uint8_t)('0' + turn % 10) ^ mask;
}

/* ---- Files and sockets ---- */
/* A whole file with a NUL behind it. */
static inline uint8_t *slurp(const char *path, size_t *size) {
  FILE *f = fopen(path, "rb");
  if (f == NULL || fseek(f, 0, SEEK_END) < 0) fail(path);
  *size = (size_t)ftell(f);
  rewind(f);
  uint8_t *bytes = reserve(NULL, *size + 1);
  if (fread(bytes, 1, *size, f) != *size) fail(path);
  bytes[*size] = 0;
  fclose(f);
  return bytes;
}

/* As many open sockets as the system allows us. */
static inline void allow_files(void) {
  struct rlimit r;
  getrlimit(RLIMIT_NOFILE, &r);
  r.rlim_cur = r.rlim_max;
  setrlimit(RLIMIT_NOFILE, &r);
}

/* A connected blocking socket to 127.0.0.1. */
static inline int dial(int port) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
  if (fd < 0 || connect(fd, (void *)&a, sizeof a) < 0) fail("connect");
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  return fd;
}

static inline void write_all(int fd, const void *bytes, size_t n) {
  for (size_t at = 0; at < n;) {
    ssize_t k = write(fd, (const char *)bytes + at, n - at);
    if (k <= 0) fail("write");
    at += (size_t)k;
  }
}

/*
 * Sends an opening. When it begins with a WebSocket upgrade, what follows that is sent after the 101 answer; bytes that
 * came behind the answer are left in `rest`; returns how many.
 */
static inline size_t open_stream(int fd, const uint8_t *opening, size_t n, int upgrade, uint8_t *rest, size_t room) {
  const uint8_t *blank = upgrade ? memmem(opening, n, "\r\n\r\n", 4) : NULL;
  size_t head = blank == NULL ? n : (size_t)(blank + 4 - opening);
  write_all(fd, opening, head);
  if (!upgrade) return 0;
  size_t have = 0;
  for (;;) {
    ssize_t k = read(fd, rest + have, room - 1 - have);
    if (k <= 0) fail("upgrade");
    have += (size_t)k;
    rest[have] = 0;
    uint8_t *end = memmem(rest, have, "\r\n\r\n", 4);
    if (end == NULL) continue;
    if (strncmp((char *)rest, "HTTP/1.1 101", 12) != 0) {
      fprintf(stderr, "upgrade refused: %.300s\n", rest);
      exit(1);
    }
    write_all(fd, opening + head, n - head);
    have -= (size_t)(end + 4 - rest);
    memmove(rest, end + 4, have);
    return have;
  }
}

static inline void watch(int epoll, int op, int fd, uint32_t events, void *arg) {
  struct epoll_event e = {.events = events, .data.ptr = arg};
  if (epoll_ctl(epoll, op, fd, &e) < 0) fail("epoll");
}

/* ---- WebSocket frames of a server, however reads cut them ---- */
#define KEPT 128 /* first bytes of each payload that are kept: enough to know a message, all of a PING */
typedef struct {
  uint8_t head[10], kept[KEPT];
  int have, keeps;
  uint64_t size, left;
} Walker;
typedef void OnFrame(void *arg, int opcode, const uint8_t *kept, int n);

static inline void walk(Walker *w, const uint8_t *p, size_t n, OnFrame *frame, void *arg) {
  const uint8_t *end = p + n;
  while (p < end) {
    int need = w->have < 2 ? 2 : (w->head[1] & 127) == 127 ? 10 : (w->head[1] & 127) == 126 ? 4 : 2;
    if (w->have < need) {
      w->head[w->have++] = *p++;
      if (w->have < 2) continue;
      int code = w->head[1] & 127;
      need = code == 127 ? 10 : code == 126 ? 4 : 2;
      if (w->have < need) continue;
      w->size = code < 126 ? (uint64_t)code : 0;
      for (int i = 2; i < need; i++) w->size = w->size << 8 | w->head[i];
      w->left = w->size;
      w->keeps = 0;
    }
    uint64_t take = (uint64_t)(end - p) < w->left ? (uint64_t)(end - p) : w->left;
    if (w->keeps < KEPT) {
      int k = take < (uint64_t)(KEPT - w->keeps) ? (int)take : KEPT - w->keeps;
      memcpy(w->kept + w->keeps, p, (size_t)k);
      w->keeps += k;
    }
    p += take;
    w->left -= take;
    if (w->left > 0) return;
    w->have = 0;
    frame(arg, w->head[0] & 15, w->kept, w->keeps);
  }
}

/* Answers a PING, so that the server keeps the socket. */
static inline void pong(int fd, const uint8_t *payload, int n) {
  uint8_t f[6 + 125] = {0x8a, (uint8_t)(0x80 | n), MASK, MASK, MASK, MASK};
  for (int i = 0; i < n; i++) f[6 + i] = payload[i] ^ MASK;
  if (write(fd, f, (size_t)(6 + n)) < 0 && errno != EAGAIN) fail("pong");
}
#endif
