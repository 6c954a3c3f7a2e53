/*
 * Receives events on many connections and counts them: one thread, epoll.
 *
 *   drain --port P --connections N --mode stream|ws|poll|longpoll|xread [--opening FILE] [--from SEQ] [--ready TEXT]
 *         [--skip BYTES] [--channels C]
 *
 * Each connection sends the opening: `ws` begins with an upgrade and then walks frames (PINGs are answered), `stream`
 * takes bytes as they come, `poll` sends it as one HTTP request, again for each answer, until an answer brings no
 * event; `longpoll` asks for ever. With `ws` and --channels, the {turn} of an opening becomes six digits, the
 * connection's number modulo C. With `ws` and --from, each JSON message of events must begin where the one before it ended. A request has marks: {after} becomes --from + the number of events so far;
 * {last:NAME}, in 16 characters, the `last` that the answers told of this channel (of many pages in one JSON answer),
 * --from at first; {modified} and {etag} what these headers of the last answer said, which is how Nchan's clients go on.
 * Events are found by their stamp; the --skip bytes after a stamp hold no other and are not looked at. With --ready a
 * connection counts as open once TEXT came. `xread` reads the Redis stream that the opening names.
 * Prints {"ready":N}. Commands on stdin, one a line: `until N` answers with the report once N events came, `report`
 * at once, `reset` sets the counters to zero and answers {"reset":true}, `latency` the latencies alone. At its end, stdin ends the program.
 * The report: events, frames (answers, where it polls), bytes; least and most events of a connection; sum of the stamps
 * of the first connection of each channel, and a digest of their `order`; `agree`: connections that got the same events
 * in the same order (of each channel) as the first one of their channel; `holes`: pages with {last:NAME} that did not
 * begin where they were asked to, or held another number of events than they said; messages out of their chain, and
 * connections that got another number of events than their messages said; `told`: gaps, resets, ends and errors; closed;
 * when the first opening was sent, first and last arrival (us of one clock); latency, and its histogram.
 */
#define _GNU_SOURCE
#include "resp.h"

#define READ_BYTES (512 * 1024)
#define CARRY (sizeof STAMP - 1 + STAMP_DIGITS - 1) /* longest part of a stamp that a read may cut */
#define PARTS 1024
#define HEADER_BYTES 80 /* of a header that the next request repeats */
#define LAST_DIGITS 16
#define ORDER_PRIME 16777619u

/* A poll's request is its opening, cut at the marks. */
typedef struct {
  enum { TEXT, AFTER, LAST, MODIFIED, ETAG } kind;
  const char *text; /* of LAST: the channel */
  size_t n;
} Part;

/* How far a connection came in one channel of its polls. */
typedef struct {
  uint64_t last;
  uint32_t order;
} Place;

typedef struct {
  int fd, open;
  uint8_t carry[CARRY]; /* the end of the last read, when it may begin a stamp */
  size_t carried, skip;
  uint64_t events, sum;
  uint32_t order; /* as in sockets.ts */
  Walker walker;
  Reply reply;
  int64_t body; /* poll: bytes of the answer that are missing; -1: its head is not whole yet */
  uint64_t asked_at, position; /* poll: events of all time, at the last request and now */
  uint8_t *held; /* poll: CARRY bytes of room, then what came of an answer that is looked at when more of it is here */
  size_t held_n, held_room;
  Place *places; /* of `ws`: one */
  char modified[HEADER_BYTES], etag[HEADER_BYTES];
} Conn;

static int ws, chained, poll_mode, for_ever, xread_mode, epoll, conn_count = 1, channel_count = 1;
static Part parts[PARTS];
static int part_count, place_count;
static const Part *channels[PARTS]; /* of the places */
static uint64_t from, holes, told;
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
    c->order = c->order * ORDER_PRIME + (uint32_t)stamp;
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

/* A message of events must go on where the one before it ended. */
static void take_message(Conn *c, const char *text) {
  static const char *const ends[] = {"{\"op\":\"gap\"", "{\"op\":\"reset\"", "{\"op\":\"ended\"", "{\"op\":\"error\""};
  for (int i = 0; i < 4; i++) told += strncmp(text, ends[i], strlen(ends[i])) == 0;
  if (strncmp(text, "{\"op\":\"events\"", 14) != 0) return;
  const char *after = strstr(text, "\"after\":"), *last = strstr(text, "\"last\":");
  if (after == NULL || last == NULL) fail("a message of another kind");
  holes += strtoull(after + 8, NULL, 10) != c->places->last;
  c->places->last = strtoull(last + 7, NULL, 10);
}

static void on_frame(void *arg, int opcode, const uint8_t *kept, int n) {
  Conn *c = arg;
  frames++;
  if (opcode == 9) return pong(c->fd, kept, n);
  if (opcode == 8 && n >= 2) fprintf(stderr, "closed: %d %.*s\n", kept[0] << 8 | kept[1], n - 2, kept + 2);
  if (chained && opcode == 1) {
    char text[KEPT + 1];
    memcpy(text, kept, (size_t)n);
    text[n] = 0;
    take_message(c, text);
  }
  if (!c->open && memmem(kept, (size_t)n, ready_text, strlen(ready_text)) != NULL) set_open(c);
}

static void add_part(int kind, const char *text, size_t n) {
  if (part_count == PARTS) fail("too many marks");
  parts[part_count] = (Part){kind, text, n};
  if (kind == LAST) channels[place_count++] = &parts[part_count];
  part_count++;
}

/* Cuts the opening at its marks; other braces are text. */
static void cut_opening(void) {
  static const struct {
    const char *mark;
    int kind;
  } marks[] = {{"{after}", AFTER}, {"{last:", LAST}, {"{modified}", MODIFIED}, {"{etag}", ETAG}};
  const char *text = (char *)opening, *end = text + opening_size, *p = text;
  while ((p = memchr(p, '{', (size_t)(end - p))) != NULL) {
    size_t i = 0;
    while (i < 4 && strncmp(p, marks[i].mark, strlen(marks[i].mark)) != 0) i++;
    if (i == 4) {
      p++;
      continue;
    }
    add_part(TEXT, text, (size_t)(p - text));
    const char *name = p + strlen("{last:"), *close = strchr(p, '}');
    add_part(marks[i].kind, name, (size_t)(close - name));
    text = p = close + 1;
  }
  add_part(TEXT, text, (size_t)(end - text));
}

static void ask(Conn *c) {
  static char request[64 * 1024];
  size_t n = 0, place = 0;
  for (int i = 0; i < part_count; i++) {
    const Part *part = &parts[i];
    char *at = request + n;
    if (n + part->n + HEADER_BYTES > sizeof request) fail("opening");
    if (part->kind == TEXT) memcpy(at, part->text, part->n), n += part->n;
    if (part->kind == AFTER) n += (size_t)sprintf(at, "%lu", from + c->position);
    if (part->kind == LAST) n += (size_t)sprintf(at, "%-*lu", LAST_DIGITS, c->places[place++].last);
    if (part->kind == MODIFIED) n += (size_t)sprintf(at, "%s", c->modified);
    if (part->kind == ETAG) n += (size_t)sprintf(at, "%s", c->etag);
  }
  c->asked_at = c->position;
  c->body = -1;
  c->carried = c->skip = c->held_n = 0;
  write_all(c->fd, request, n);
}

/* Holds the bytes behind those that are held already; `p` may stand within them, when it replaces them. */
static void hold(Conn *c, const uint8_t *p, size_t n, int replace) {
  size_t at = replace ? 0 : c->held_n;
  if (CARRY + at + n + 1 > c->held_room) {
    c->held_room = (CARRY + at + n + 1) * 2;
    c->held = reserve(c->held, c->held_room);
  }
  memmove(c->held + CARRY + at, p, n);
  c->held_n = at + n;
  c->held[CARRY + c->held_n] = 0;
}

/* The value of a header as text, cut at HEADER_BYTES; as it was when there is none. */
static void take_header(const char *head, const char *name, char *value) {
  const char *at = strcasestr(head, name);
  if (at == NULL) return;
  at += strlen(name) + strspn(at + strlen(name), " ");
  snprintf(value, HEADER_BYTES, "%.*s", (int)strcspn(at, "\r"), at);
}

/* The pages of many channels in a whole JSON answer: each must begin where this connection stands in its channel. */
static void take_pages(Conn *c, uint8_t *p, size_t n) {
  static const char field[] = "\"channel\":\"";
  uint8_t *end = p + n, *page = memmem(p, n, field, sizeof field - 1);
  while (page != NULL) {
    char *name = (char *)page + sizeof field - 1, *facts = strchr(name, '"');
    uint8_t *next = memmem(name, (size_t)(end - (uint8_t *)name), field, sizeof field - 1);
    int i = 0;
    while (i < place_count && (channels[i]->n != (size_t)(facts - name) || memcmp(channels[i]->text, name, channels[i]->n) != 0)) i++;
    const char *after = strstr(facts, "\"after\":"), *last = strstr(facts, "\"last\":");
    if (i == place_count || after == NULL || last == NULL) fail("a page of another kind");
    Place *place = &c->places[i];
    const uint64_t before = c->events;
    c->order = place->order;
    c->carried = c->skip = 0;
    scan(c, page, (size_t)((next == NULL ? end : next) - page));
    place->order = c->order;
    if (strtoull(after + 8, NULL, 10) != place->last) holes++;
    place->last = strtoull(last + 7, NULL, 10);
    if (place->last != strtoull(after + 8, NULL, 10) + c->events - before) holes++;
    page = next;
  }
  c->order = 0;
  for (int i = 0; i < place_count; i++) c->order += c->places[i].order * (uint32_t)(2 * i + 1);
}

/* The bytes of a poll's answers. */
static void on_answer(Conn *c, uint8_t *p, size_t n) {
  if (c->held_n > 0) {
    hold(c, p, n, 0);
    p = c->held + CARRY;
    n = c->held_n;
  }
  if (c->body < 0) {
    uint8_t *end = memmem(p, n, "\r\n\r\n", 4);
    if (end == NULL) return hold(c, p, n, 1);
    if (strncmp((char *)p, "HTTP/1.1 200", 12) != 0) {
      fprintf(stderr, "refused: %.*s\n", n < 600 ? (int)n : 600, p);
      exit(1);
    }
    *end = 0;
    char *length = strcasestr((char *)p, "\r\ncontent-length:");
    if (length == NULL) fail("an answer without Content-Length");
    c->body = atol(length + 17);
    take_header((char *)p, "\r\nlast-modified:", c->modified);
    take_header((char *)p, "\r\netag:", c->etag);
    n -= (size_t)(end + 4 - p);
    p = end + 4;
    frames++;
  }
  if (place_count > 0) {
    if ((int64_t)n < c->body) return hold(c, p, n, 1);
    take_pages(c, p, n);
    c->body = 0;
  } else {
    c->held_n = 0;
    scan(c, p, n);
    c->body -= (int64_t)n;
  }
  if (c->body == 0 && (for_ever || c->position > c->asked_at)) ask(c);
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
  else if (!c->open && memmem(p, (size_t)k, ready_text, strlen(ready_text)) != NULL) set_open(c);
  scan(c, p, (size_t)k);
  if (xread_mode && take_reply(&c->reply, p, (size_t)k)) xread(&c->reply, c->fd, (char *)opening);
}

static void report(void) {
  uint64_t least = UINT64_MAX, most = 0, agree = 0, sum = 0, out = holes;
  uint32_t order = 0;
  for (int i = 0; i < conn_count; i++) {
    Conn *c = &conns[i], *first_of = &conns[i % channel_count];
    if (c->events < least) least = c->events;
    if (c->events > most) most = c->events;
    agree += c->events == first_of->events && c->order == first_of->order;
    out += chained && c->places->last != from + c->position;
    if (c != first_of) continue;
    sum += c->sum;
    order += c->order * (uint32_t)(2 * i + 1);
  }
  printf("{\"events\":%lu,\"frames\":%lu,\"bytes\":%lu,\"closed\":%lu,", events, frames, bytes, closed_count);
  printf("\"least\":%lu,\"most\":%lu,\"agree\":%lu,\"holes\":%lu,\"told\":%lu,", least, most, agree, out, told);
  printf("\"sum\":\"%lu\",\"order\":%u,", sum, order);
  printf("\"asked\":%.0f,\"first\":%.0f,\"last\":%.0f,", asked, first, last);
  printf("\"p50us\":%.0f,\"p99us\":%.0f,\"maxus\":%lu,\"cpu\":%.2f,\"slots\":", hist_at(&latency, 0.5), hist_at(&latency, 0.99),
         latency.max, cpu_seconds());
  hist_print(&latency);
  puts("}");
  fflush(stdout);
}

static void reset_latency(void) {
  memset(&latency, 0, sizeof latency);
  puts("{\"reset\":true}");
  fflush(stdout);
}

static void reset(void) {
  events = frames = bytes = until = 0;
  first = last = 0;
  for (int i = 0; i < conn_count; i++) {
    conns[i].events = conns[i].sum = 0;
    conns[i].order = 0;
    for (int k = 0; k < place_count; k++) conns[i].places[k].order = 0;
  }
  reset_latency();
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
  else if (strncmp(line, "latency", 7) == 0) reset_latency();
  else report();
}

static void connect_all(int port) {
  conns = calloc((size_t)conn_count, sizeof(Conn));
  if (conns == NULL) fail("memory");
  const uint8_t mask = ws ? MASK : 0;
  uint8_t *turn = channel_count > 1 ? find_turn(opening, opening_size, mask) : NULL;
  for (int i = 0; i < conn_count; i++) {
    Conn *c = &conns[i];
    if (turn != NULL) put_turn(turn, (uint64_t)(i % channel_count), mask);
    c->fd = dial(port);
    if (i == 0) asked = now_us();
    c->places = reserve(NULL, sizeof(Place) * (size_t)(place_count + 1));
    for (int k = 0; k <= place_count; k++) c->places[k] = (Place){from, 0};
    strcpy(c->modified, "Thu, 01 Jan 1970 00:00:00 GMT");
    strcpy(c->etag, "0");
    if (poll_mode) ask(c);
    else if (xread_mode) xread(&c->reply, c->fd, (char *)opening);
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
                                          {"from", 1, 0, 'f'},    {"channels", 1, 0, 'k'},    {0, 0, 0, 0}};
  for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) switch (option) {
      case 'p': port = atoi(optarg); break;
      case 'n': conn_count = atoi(optarg); break;
      case 'm':
        ws = strcmp(optarg, "ws") == 0;
        for_ever = strcmp(optarg, "longpoll") == 0;
        poll_mode = for_ever || strcmp(optarg, "poll") == 0;
        xread_mode = strcmp(optarg, "xread") == 0;
        break;
      case 'f':
        from = strtoull(optarg, NULL, 10);
        chained = 1;
        break;
      case 'k': channel_count = atoi(optarg); break;
      case 'o': opening = slurp(optarg, &opening_size); break;
      case 'r': snprintf(ready_text, sizeof ready_text, "%s", optarg); break;
      case 's': skip_bytes = (size_t)atol(optarg); break;
      default: return 2;
    }
  if (port == 0 || conn_count < 1 || channel_count < 1) return 2;
  chained &= ws;
  if (poll_mode) cut_opening();
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
