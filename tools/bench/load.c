/*
 * Sends append requests and counts the answers: one thread, epoll, many connections.
 *
 *   load --port P --connections N --requests FILE --protocol http|ws|lines [--lines L] [--depth D] [--rate R]
 *        [--channels C]
 *        (--seconds S [--warm S] | --count REQUESTS)
 *
 * FILE (made by requests.ts, little-endian): u32 length, opening bytes of each connection; then the requests, sent in
 * turn and again from the first: u32 length, u32 events, bytes. Every stamp of sixteen zeros is replaced by the time
 * just before the write (with --rate: the time at which it was due, so that waiting for a free connection counts).
 * With --channels, the {turn} of a request becomes six digits: 000000 in the first that is sent, then 000001 … C - 1.
 * --depth requests are in flight on each connection; --rate R paces R events a second over all connections.
 * Answers: of `http`, a response; of `ws`, a message that tells what was appended; of `lines` (Redis, NATS), L lines.
 * The tag @@@@@@@@ in an opening or a request becomes the connection's number.
 * Prints {"phase":"measure"} and {"phase":"drain"} at the edges of the measured time; then waits for the answers that
 * are missing, and prints the report: `answered`, `events`, `seconds`, p50us, p99us of the measured time, and over
 * everything that was sent: `total` events, their stamps' sum, errors, late (sent over 1 ms after they were due).
 */
#define _GNU_SOURCE
#include "bench.h"
#include <math.h>

#define IN_BYTES (64 * 1024)
#define TAG "@@@@@@@@"
#define DRAIN_US 20e6 /* longest wait for missing answers */
#define LATE_US 1e3   /* a paced request sent later than this after it was due counts as late */
#define IDLE_US 1e5   /* longest sleep */

typedef struct {
  uint8_t *bytes;
  uint32_t length, events;
  uint32_t *stamps; /* where the digits stand */
  uint32_t stamp_count;
  uint8_t *turn; /* where {turn} stands, or NULL */
  uint32_t *tags;
  uint32_t tag_count;
} Request;

typedef struct {
  uint32_t events;
  double start;
} Flight;

typedef struct {
  int fd;
  uint8_t *out; /* not yet taken by the kernel: out[out_at .. out_len) */
  size_t out_at, out_len, out_room;
  int full; /* the kernel takes no more just now */
  Flight *flights; /* ring of --depth, answered in order */
  int first, flying;
  char tag[16];
  int lines; /* of the answer that is under way */
  Walker walker;
  char in[IN_BYTES];
  size_t in_len;
} Conn;

static enum { WARM, MEASURE, DRAIN } phase = WARM;
static int ws, lines, depth = 1, epoll, request_count, in_flight;
static Request *requests;
static uint64_t channel_count = 1, launched, answered, events, total, sum, errors, late;
static Hist latency;

static void refused(const char *text, int n) {
  if (errors++ == 0) fprintf(stderr, "refused: %.*s\n", n, text);
}

static void read_requests(const char *path, uint8_t **opening, uint32_t *opening_length) {
  size_t size;
  uint8_t *file = slurp(path, &size), *end = file + size;
  char zeros[] = STAMP "0000000000000000";
  const size_t length = sizeof zeros - 1;
  const uint8_t mask = ws ? MASK : 0;
  for (size_t i = 0; i < length; i++) zeros[i] ^= (char)mask;
  memcpy(opening_length, file, 4);
  *opening = file + 4;
  for (uint8_t *p = file + 4 + *opening_length; p < end; request_count++) {
    requests = reserve(requests, sizeof(Request) * (size_t)(request_count + 1));
    Request *r = &requests[request_count];
    memset(r, 0, sizeof *r);
    memcpy(&r->length, p, 4);
    memcpy(&r->events, p + 4, 4);
    r->bytes = p + 8;
    p += 8 + r->length;
    r->turn = find_turn(r->bytes, r->length < 128 ? r->length : 128, mask);
    for (uint8_t *s = r->bytes; (s = memmem(s, (size_t)(p - s), zeros, length)) != NULL; s += length) {
      r->stamps = reserve(r->stamps, sizeof(uint32_t) * (r->stamp_count + 1));
      r->stamps[r->stamp_count++] = (uint32_t)(s - r->bytes) + sizeof STAMP - 1;
    }
    for (uint8_t *s = r->bytes; lines > 0 && (s = memmem(s, (size_t)(p - s), TAG, sizeof TAG - 1)) != NULL; s++) {
      r->tags = reserve(r->tags, sizeof(uint32_t) * (r->tag_count + 1));
      r->tags[r->tag_count++] = (uint32_t)(s - r->bytes);
    }
  }
  if (request_count == 0) fail("no requests");
}

static void flush(Conn *c) {
  if (c->out_at == c->out_len) return;
  ssize_t k = write(c->fd, c->out + c->out_at, c->out_len - c->out_at);
  if (k < 0 && errno != EAGAIN) fail("write");
  if (k > 0) c->out_at += (size_t)k;
  int full = c->out_at < c->out_len;
  if (!full) c->out_at = c->out_len = 0;
  if (full != c->full) watch(epoll, EPOLL_CTL_MOD, c->fd, full ? EPOLLIN | EPOLLOUT : EPOLLIN, c);
  c->full = full;
}

/* Puts the next request into the connection's out bytes; `due` is microseconds since 1970, `start` of our clock. */
static void launch(Conn *c, double due, double start) {
  const uint64_t turn = launched % channel_count;
  Request *r = &requests[launched++ % (uint64_t)request_count];
  if (c->out_len + r->length > c->out_room) {
    c->out_room = (c->out_len + r->length) * 2;
    c->out = reserve(c->out, c->out_room);
  }
  uint8_t *at = c->out + c->out_len;
  memcpy(at, r->bytes, r->length);
  c->out_len += r->length;
  for (uint32_t i = 0; i < r->tag_count; i++) memcpy(at + r->tags[i], c->tag, sizeof TAG - 1);
  uint64_t stamp = (uint64_t)due;
  const uint8_t mask = ws ? MASK : 0;
  for (uint32_t i = 0; i < r->stamp_count; i++, stamp++) { /* events of a batch differ by a microsecond each */
    uint64_t v = stamp;
    uint8_t *digits = at + r->stamps[i];
    for (int d = STAMP_DIGITS - 1; d >= 0; d--, v /= 10) digits[d] = (uint8_t)('0' + v % 10) ^ mask;
    sum += stamp;
  }
  if (r->turn != NULL) put_turn(at + (r->turn - r->bytes), turn, mask);
  c->flights[(c->first + c->flying++) % depth] = (Flight){r->events, start};
  in_flight++;
}

static void landed(Conn *c) {
  if (c->flying == 0) fail("an answer without a request");
  Flight *f = &c->flights[c->first];
  c->first = (c->first + 1) % depth;
  c->flying--;
  in_flight--;
  total += f->events;
  if (phase != MEASURE) return;
  answered++;
  events += f->events;
  hist_add(&latency, now_us() - f->start);
}

static void on_frame(void *arg, int opcode, const uint8_t *kept, int n) {
  Conn *c = arg;
  if (opcode == 9) return pong(c->fd, kept, n);
  if (opcode == 8) {
    fprintf(stderr, "closed: %d %.*s\n", n < 2 ? 0 : kept[0] << 8 | kept[1], n < 2 ? 0 : n - 2, kept + 2);
    exit(1);
  }
  if (memmem(kept, (size_t)n, "appended", 8) != NULL) return landed(c);
  if (memmem(kept, (size_t)n, "error", 5) == NULL) return; /* welcome, heartbeat */
  refused((const char *)kept, n);
  landed(c);
}

static void keep_from(Conn *c, size_t at) {
  memmove(c->in, c->in + at, c->in_len - at);
  c->in_len -= at;
}

/* Takes whole lines off the in bytes. What NATS says unasked is no answer. */
static void take_lines(Conn *c) {
  char *p = c->in, *end = c->in + c->in_len, *newline;
  for (; (newline = memchr(p, '\n', (size_t)(end - p))) != NULL; p = newline + 1) {
    if (strncmp(p, "INFO ", 5) == 0 || strncmp(p, "PING", 4) == 0) continue;
    if (*p == '-' || memmem(p, (size_t)(newline - p), "\"error\"", 7) != NULL) refused(p, (int)(newline - p));
    if (++c->lines < lines) continue;
    c->lines = 0;
    landed(c);
  }
  keep_from(c, (size_t)(p - c->in));
}

/* Takes whole HTTP answers off the in bytes. */
static void take_answers(Conn *c) {
  size_t at = 0;
  for (;;) {
    char *answer = c->in + at, *end = memmem(answer, c->in_len - at, "\r\n\r\n", 4);
    if (end == NULL) break;
    *end = 0;
    char *length = strcasestr(answer, "\r\ncontent-length:");
    const int is_empty = strncmp(answer + 9, "204", 3) == 0;
    if (length == NULL && !is_empty) fail("an answer without Content-Length");
    size_t whole = (size_t)(end + 4 - answer) + (is_empty ? 0 : (size_t)atol(length + 17));
    *end = '\r';
    if (at + whole > c->in_len) {
      if (whole >= IN_BYTES) fail("an answer too large");
      break;
    }
    if (answer[9] != '2') refused(answer, (int)(whole < 600 ? whole : 600));
    landed(c);
    at += whole;
  }
  keep_from(c, at);
}

static void receive(Conn *c) {
  ssize_t k = read(c->fd, c->in + c->in_len, IN_BYTES - 1 - c->in_len);
  if (k < 0 && errno == EAGAIN) return;
  if (k <= 0) fail("a connection was closed");
  if (ws) return walk(&c->walker, (uint8_t *)c->in, (size_t)k, on_frame, c);
  c->in_len += (size_t)k;
  c->in[c->in_len] = 0;
  if (lines > 0) take_lines(c);
  else take_answers(c);
}

static Conn *connect_all(int port, int n, uint8_t *opening, uint32_t opening_length) {
  Conn *conns = calloc((size_t)n, sizeof(Conn));
  if (conns == NULL) fail("memory");
  uint8_t *tag = lines > 0 ? memmem(opening, opening_length, TAG, sizeof TAG - 1) : NULL;
  for (int i = 0; i < n; i++) {
    Conn *c = &conns[i];
    c->fd = dial(port);
    snprintf(c->tag, sizeof c->tag, "%08d", i);
    if (tag != NULL) memcpy(tag, c->tag, sizeof TAG - 1);
    c->flights = reserve(NULL, sizeof(Flight) * (size_t)depth);
    size_t rest = open_stream(c->fd, opening, opening_length, ws, (uint8_t *)c->in, IN_BYTES);
    if (ws) walk(&c->walker, (uint8_t *)c->in, rest, on_frame, c);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    watch(epoll, EPOLL_CTL_ADD, c->fd, EPOLLIN, c);
  }
  return conns;
}

static int port, conn_count = 1, turn;
static double seconds, warm, rate;
static uint64_t count;
static const char *file;

static int read_options(int argc, char **argv) {
  static const struct option options[] = {{"port", 1, 0, 'p'},     {"connections", 1, 0, 'n'}, {"requests", 1, 0, 'f'},
                                          {"protocol", 1, 0, 'x'}, {"depth", 1, 0, 'd'},       {"rate", 1, 0, 'r'},
                                          {"seconds", 1, 0, 's'},  {"warm", 1, 0, 'w'},        {"count", 1, 0, 'c'},
                                          {"channels", 1, 0, 'k'},
                                          {"lines", 1, 0, 'l'},
                                          {0, 0, 0, 0}};
  for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) switch (option) {
      case 'p': port = atoi(optarg); break;
      case 'n': conn_count = atoi(optarg); break;
      case 'f': file = optarg; break;
      case 'x': ws = strcmp(optarg, "ws") == 0; break;
      case 'l': lines = atoi(optarg); break;
      case 'd': depth = atoi(optarg); break;
      case 'r': rate = atof(optarg); break;
      case 's': seconds = atof(optarg); break;
      case 'w': warm = atof(optarg); break;
      case 'c': count = strtoull(optarg, NULL, 10); break;
      case 'k': channel_count = strtoull(optarg, NULL, 10); break;
      default: return 0;
    }
  return port > 0 && file != NULL && conn_count > 0 && depth > 0 && channel_count > 0 &&
         (seconds > 0 || count > 0);
}

static void enter(int next, const char *name) {
  phase = next;
  printf("{\"phase\":\"%s\"}\n", name);
  fflush(stdout);
}

/* As many requests as may be in flight. */
static void launch_all(Conn *conns) {
  for (int i = 0; i < conn_count; i++) {
    Conn *c = &conns[i];
    while (c->flying < depth && (count == 0 || launched < count)) launch(c, epoch_us(), now_us());
    flush(c);
  }
}

/* The requests that are due; returns when the next one is. */
static double launch_due(Conn *conns, double due, double offset) {
  const double step = 1e6 * requests[0].events / rate;
  for (double t; due <= (t = now_us()); due += step) {
    int i = 0;
    while (i < conn_count && conns[(turn + i) % conn_count].flying == depth) i++;
    if (i == conn_count) return due; /* the next answer wakes us */
    Conn *c = &conns[(turn + i) % conn_count];
    turn = (turn + i + 1) % conn_count;
    if (t - due > LATE_US) late++;
    launch(c, due + offset, due);
    flush(c);
  }
  return due;
}

int main(int argc, char **argv) {
  if (!read_options(argc, argv)) return 2;
  allow_files();
  prctl(PR_SET_TIMERSLACK, 1000); /* a paced request is sent when it is due, not 50 us later */
  uint8_t *opening;
  uint32_t opening_length;
  read_requests(file, &opening, &opening_length);
  epoll = epoll_create1(0);
  Conn *conns = connect_all(port, conn_count, opening, opening_length);

  /* `edge` is when the phase ends; with --count, the measured time ends with the last answer. */
  double begin = now_us(), due = begin, measured = 0, edge = begin + warm * 1e6;
  const double offset = epoch_us() - now_us();
  for (;;) {
    double t = now_us();
    if (phase == WARM && t >= edge) {
      measured = t;
      edge = count > 0 ? INFINITY : t + seconds * 1e6;
      enter(MEASURE, "measure");
    }
    if (phase == MEASURE && (t >= edge || (count > 0 && launched == count && in_flight == 0))) {
      seconds = (t - measured) / 1e6;
      edge = t + DRAIN_US;
      enter(DRAIN, "drain");
    }
    if (phase == DRAIN) {
      if (in_flight == 0) break;
      if (t >= edge) fail("answers are missing");
    } else if (rate > 0) due = launch_due(conns, due, offset);
    else launch_all(conns);

    double next = phase != DRAIN && rate > 0 && due > t && due < edge ? due : edge;
    double wait = next - now_us() > IDLE_US ? IDLE_US : next > now_us() ? next - now_us() : 0;
    struct timespec timeout = {0, (long)(wait * 1e3)};
    struct epoll_event ready[256];
    int k = epoll_pwait2(epoll, ready, 256, &timeout, NULL);
    for (int i = 0; i < k; i++) {
      if (ready[i].events & EPOLLOUT) flush(ready[i].data.ptr);
      if (ready[i].events & ~(uint32_t)EPOLLOUT) receive(ready[i].data.ptr);
    }
  }
  printf("{\"answered\":%lu,\"events\":%lu,\"seconds\":%.4f,\"p50us\":%.0f,\"p99us\":%.0f,", answered, events, seconds,
         hist_at(&latency, 0.5), hist_at(&latency, 0.99));
  printf("\"total\":%lu,\"sum\":\"%lu\",\"errors\":%lu,\"late\":%lu,\"cpu\":%.2f}\n", total, sum, errors, late,
         cpu_seconds());
  return 0;
}
