/*
 * The limit of fan-out: one thread that writes K events of 200 bytes in one write() to each of N loopback
 * sockets in turn.
 *
 *   send --connections N --events K --seconds S --body FILE
 *
 * FILE holds K events as `drain --mode stream` finds them. Prints {"port":P}, waits for N connections, writes for S
 * seconds (blocking sockets), prints {"events":written,"cpu":seconds} and waits for stdin to end.
 */
#define _GNU_SOURCE
#include "bench.h"

int main(int argc, char **argv) {
  int n = 1, k = 1;
  double seconds = 1;
  const char *file = NULL;
  static const struct option options[] = {{"connections", 1, 0, 'n'}, {"events", 1, 0, 'k'}, {"seconds", 1, 0, 's'},
                                          {"body", 1, 0, 'b'}, {0, 0, 0, 0}};
  for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) switch (option) {
      case 'n': n = atoi(optarg); break;
      case 'k': k = atoi(optarg); break;
      case 's': seconds = atof(optarg); break;
      case 'b': file = optarg; break;
      default: return 2;
    }
  if (file == NULL || n < 1) return 2;
  allow_files();
  size_t size;
  uint8_t *body = slurp(file, &size);
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  socklen_t length = sizeof a;
  int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
  if (bind(listener, (void *)&a, sizeof a) < 0 || listen(listener, 4096) < 0) fail("listen");
  getsockname(listener, (void *)&a, &length);
  printf("{\"port\":%d}\n", ntohs(a.sin_port));
  fflush(stdout);
  int *sockets = reserve(NULL, sizeof(int) * (size_t)n);
  for (int i = 0; i < n; i++) {
    sockets[i] = accept(listener, NULL, NULL);
    if (sockets[i] < 0) fail("accept");
    setsockopt(sockets[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  }
  uint64_t events = 0;
  for (double end = now_us() + seconds * 1e6; now_us() < end; events += (uint64_t)n * (uint64_t)k)
    for (int i = 0; i < n; i++) write_all(sockets[i], body, size);
  printf("{\"events\":%lu,\"cpu\":%.3f}\n", events, cpu_seconds());
  fflush(stdout);
  char end;
  while (read(0, &end, 1) > 0);
  return 0;
}
