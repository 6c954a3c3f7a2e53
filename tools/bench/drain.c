/*
 * Receives events on many connections and counts them: one thread, epoll.
 *
 *   drain --port P --connections N --mode stream|ws|poll [--opening FILE] [--ready TEXT] [--skip BYTES]
 *
 * Each connection sends the opening: `ws` begins with an upgrade and then walks frames (PINGs are answered), `stream`
 * takes bytes as they come, `poll` sends it as one HTTP request, again for each answer, with {after} replaced by the
 * number of events so far, until an answer brings none. Events are found by their stamp; the --skip bytes after a
 * stamp hold no other and are not looked at. With --ready a connection counts as open once TEXT came.
 * Prints {"ready":N}. Commands on stdin, one a line: `until N` answers with the report once N events came, `report`
 * at once, `reset` sets the counters to zero and answers {"reset":true}. At its end, stdin ends the program.
 * The report: events, frames, bytes; least and most events of a connection; sum of one connection's stamps; `agree`:
 * connections that got the same events in the same order as the first; closed; when the
 * first opening was sent, first and last arrival (us of one clock); latency.
 */
#define _GNU_SOURCE
#include "bench.h"

#define READ_BYTES (512 * 1024)
#define CARRY (sizeof STAMP - 1 + STAMP_DIGITS - 1) /* longest part of a stamp that a read may cut */

typedef struct {
  int fd, open;
  uint8_t carry[CARRY]; /* the end of the last read, when it may begin a stamp */
  size_t carried, skip;
  uint64_t events, sum, order;
  Walker walker;
  int64_t body; /* poll: bytes of the answer that are missing; -1: its head is not whole yet */
  uint64_t asked_at, position; /* poll: events of all time, at the last request and now */
} Conn;

static int ws, poll_mode, epoll, conn_count = 1;
static size_t skip_bytes, opening_size;
static uint8_t *opening;
static char ready_text[64];
static Conn *conns;
static uint64_t events, frames, bytes, closed_count, until;
static double asked, first, last;
static Hist latency;
static uint8_t buffer[CARRY + READ_BYTES + 1];

/* Counts the stamps of `n` bytes at `p`, before which CARRY bytes may be overwritten. */
static void scan(Conn *c, uint8_t *p, size_t n) {
  const double now = epoch_us();
  uint8_t *end = p + n;
  size_t skip = c->skip < n ? c->skip : n;
  c->skip -= skip;
  p += skip;
  if (c->carried > 0) {
    p -= c->carried;
    memcpy(p, c->carry, c->carried);
    c->carried = 0;
  }
  size_t keep = sizeof STAMP - 2; /* what is left at the end may be the beginning of a stamp */
  for (uint8_t *s; (s = memmem(p, (size_t)(end - p), STAMP, sizeof STAMP - 1)) != NULL;) {
    uint8_t *digits = s + sizeof STAMP - 1;
    if (digits + STAMP_DIGITS > end) {
      keep = (size_t)(end - s);
      break;
    }
    uint64_t stamp = 0;
    for (int i = 0; i < STAMP_DIGITS; i++) stamp = stamp * 10 + (uint64_t)(digits[i] - '0');
    hist_add(&latency, now - (double)stamp);
    c->events++;
    c->sum += stamp;
    c->order = c->order * 1099511628211u + stamp;
    events++;
    c->position++;
    p = digits + STAMP_DIGITS + skip_bytes;
    if (p >= end) {
      c->skip = (size_t)(p - end);
      return;
    }
  }
  if (keep > (size_t)(end - p)) keep = (size_t)(end - p);
  memcpy(c->carry, end - keep, keep);
  c->carried = keep;
}

static void set_open(Conn *c) {
  static int opened;
  if (c->open) return;
  c->open = 1;
  if (++opened < conn_count) return;
  printf("{\"ready\":%d}\n", opened);
  fflush(stdout);
}

static void on_frame(void *arg, int opcode, const uint8_t *kept, int n) {
  Conn *c = arg;
  frames++;
  if (opcode == 9) return pong(c->fd, kept, n);
  if (opcode == 8 && n >= 2) fprintf(stderr, "closed: %d %.*s\n", kept[0] << 8 | kept[1], n - 2, kept + 2);
  if (!c->open && memmem(kept, (size_t)n, ready_text, strlen(ready_text)) != NULL) set_open(c);
}

static void ask(Conn *c) {
  char request[4096];
  const char *mark = strstr((char *)opening, "{after}");
  if (mark == NULL || opening_size > sizeof request - 32) fail("opening");
  int n = snprintf(request, sizeof request, "%.*s%lu%s", (int)(mark - (char *)opening), opening, c->position, mark + 7);
  c->asked_at = c->position;
  c->body = -1;
  c->carried = c->skip = 0;
  write_all(c->fd, request, (size_t)n);
}

/* The bytes of a poll's answers; the head of an answer comes whole with the first read, or the program ends. */
static void on_answer(Conn *c, uint8_t *p, size_t n) {
  if (c->body < 0) {
    uint8_t *end = memmem(p, n, "\r\n\r\n", 4);
    if (end == NULL || strncmp((char *)p, "HTTP/1.1 200", 12) != 0) {
      fprintf(stderr, "refused: %.*s\n", n < 600 ? (int)n : 600, p);
      exit(1);
    }
    *end = 0;
    char *length = strcasestr((char *)p, "\r\ncontent-length:");
    if (length == NULL) fail("an answer without Content-Length");
    c->body = atol(length + 17);
    n -= (size_t)(end + 4 - p);
    p = end + 4;
  }
  scan(c, p, n);
  c->body -= (int64_t)n;
  if (c->body == 0 && c->position > c->asked_at) ask(c);
}

static void receive(Conn *c) {
  uint8_t *p = buffer + CARRY;
  ssize_t k = read(c->fd, p, READ_BYTES);
  if (k < 0 && errno == EAGAIN) return;
  if (k <= 0) {
    watch(epoll, EPOLL_CTL_DEL, c->fd, 0, NULL);
    close(c->fd);
    closed_count++;
    return;
  }
  p[k] = 0;
  bytes += (uint64_t)k;
  last = now_us();
  if (first == 0) first = last;
  if (poll_mode) return on_answer(c, p, (size_t)k);
  if (ws) walk(&c->walker, p, (size_t)k, on_frame, c);
  scan(c, p, (size_t)k);
}

static void report(void) {
  uint64_t least = UINT64_MAX, most = 0, agree = 0;
  for (int i = 0; i < conn_count; i++) {
    Conn *c = &conns[i];
    if (c->events < least) least = c->events;
    if (c->events > most) most = c->events;
    agree += c->events == conns[0].events && c->order == conns[0].order;
  }
  printf("{\"events\":%lu,\"frames\":%lu,\"bytes\":%lu,\"closed\":%lu,", events, frames, bytes, closed_count);
  printf("\"least\":%lu,\"most\":%lu,\"agree\":%lu,\"sum\":\"%lu\",", least, most, agree, conns[0].sum);
  printf("\"asked\":%.0f,\"first\":%.0f,\"last\":%.0f,", asked, first, last);
  printf("\"p50us\":%.0f,\"p99us\":%.0f,\"maxus\":%lu,\"cpu\":%.2f}\n", hist_at(&latency, 0.5), hist_at(&latency, 0.99),
         latency.max, cpu_seconds());
  fflush(stdout);
}

static void reset(void) {
  events = frames = bytes = until = 0;
  first = last = 0;
  memset(&latency, 0, sizeof latency);
  for (int i = 0; i < conn_count; i++) conns[i].events = conns[i].sum = conns[i].order = 0;
  puts("{\"reset\":true}");
  fflush(stdout);
}

/* Commands come singly: the next one is sent after the answer. */
static void command(void) {
  char line[64];
  ssize_t k = read(0, line, sizeof line - 1);
  if (k <= 0) exit(0);
  line[k] = 0;
  until = 0;
  if (strncmp(line, "until ", 6) == 0) until = strtoull(line + 6, NULL, 10);
  else if (strncmp(line, "reset", 5) == 0) reset();
  else report();
}

static void connect_all(int port) {
  conns = calloc((size_t)conn_count, sizeof(Conn));
  if (conns == NULL) fail("memory");
  for (int i = 0; i < conn_count; i++) {
    Conn *c = &conns[i];
    c->fd = dial(port);
    if (i == 0) asked = now_us();
    if (poll_mode) ask(c);
    else {
      uint8_t *rest = buffer + CARRY;
      size_t n = open_stream(c->fd, opening, opening_size, ws, rest, 8192);
      if (ws) walk(&c->walker, rest, n, on_frame, c);
      scan(c, rest, n);
    }
    if (ready_text[0] == 0) set_open(c);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    watch(epoll, EPOLL_CTL_ADD, c->fd, EPOLLIN, c);
  }
}

int main(int argc, char **argv) {
  int port = 0;
  opening = (uint8_t *)"";
  static const struct option options[] = {{"port", 1, 0, 'p'},    {"connections", 1, 0, 'n'}, {"mode", 1, 0, 'm'},
                                          {"opening", 1, 0, 'o'}, {"ready", 1, 0, 'r'},       {"skip", 1, 0, 's'},
                                          {0, 0, 0, 0}};
  for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) switch (option) {
      case 'p': port = atoi(optarg); break;
      case 'n': conn_count = atoi(optarg); break;
      case 'm': ws = strcmp(optarg, "ws") == 0, poll_mode = strcmp(optarg, "poll") == 0; break;
      case 'o': opening = slurp(optarg, &opening_size); break;
      case 'r': snprintf(ready_text, sizeof ready_text, "%s", optarg); break;
      case 's': skip_bytes = (size_t)atol(optarg); break;
      default: return 2;
    }
  if (port == 0 || conn_count < 1) return 2;
  allow_files();
  epoll = epoll_create1(0);
  watch(epoll, EPOLL_CTL_ADD, 0, EPOLLIN, NULL);
  connect_all(port);
  for (struct epoll_event ready[512];;) {
    int k = epoll_wait(epoll, ready, 512, -1);
    for (int i = 0; i < k; i++) {
      if (ready[i].data.ptr == NULL) command();
      else receive(ready[i].data.ptr);
      if (until > 0 && events >= until) {
        until = 0;
        report();
      }
    }
  }
}
