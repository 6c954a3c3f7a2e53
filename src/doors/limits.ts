/**
 * What one caller may cost this server, in one place: sizes and times of the HTTP doors. Numbers that are configured
 * stand in ../limits.ts, those of an append (events, block, depth, names) in event.ts, those of an answer in wire.ts,
 * those of a socket with the streamer.
 */

// ── Connections ──────────────────────────────────────────────────────────────────────────────────────────────────

/** The head of a request is whole after this, else `timeout`; ms. */
export const HEADERS_MS = 10_000
/**
 * A request is whole after this, head and body, else `timeout`; ms. Answers may take longer (long polls, SSE). An
 * NDJSON append may be of any length: its body only has to keep moving, BODY_PAUSE_MS.
 */
export const REQUEST_MS = 30_000
/** Longest pause within an NDJSON body, ms. */
export const BODY_PAUSE_MS = 30_000
/** How often the clocks of all connections are looked at, ms. */
export const CHECK_MS = 1_000
/** What was written of an answer is taken within this, ms, else the connection is cut. Sockets have a clock of their own. */
export const ANSWER_MS = 60_000
/** Answers that were made and not taken, of all connections together: 256 MiB. Beyond it the longest stalled is cut. */
export const UNSENT_BYTES_MAX = 256 * 1024 * 1024
/** Pages that were read for answers and wait for their turn to be made into them, of all callers together: 256 MiB. The one that passes it waits, too. */
export const PAGES_BYTES_MAX = 256 * 1024 * 1024
/** An idle connection is kept this long, ms: longer than the 60 s of the usual proxies, so that they close first. */
export const KEEP_ALIVE_MS = 65_000
/** Largest head of a request: 16 KiB. Beyond it `too-large`. */
export const HEADER_BYTES_MAX = 16 * 1024
/** Most header lines; more are refused rather than cut, so that none can push `Origin` out of sight. */
export const HEADER_LINES_MAX = 64

/** A socket without anything else to say shows that it lives this often, ms, unless configured. */
export const HEARTBEAT_MS = 25_000
/** Streams (SSE) get a comment this often, or as often as sockets if that is more; ms. Proxies cut them sooner. */
export const COMMENT_MS = 15_000

// ── Bodies ───────────────────────────────────────────────────────────────────────────────────────────────────────

/** Largest JSON body of the calls that are not appends or polls: 64 KiB. */
export const JSON_BYTES_MAX = 64 * 1024
/** Largest body of `POST /v1/poll`: a thousand channels with long names and epochs fit in 512 KiB. */
export const POLL_BYTES_MAX = 512 * 1024
/** Largest body of `POST /v1/admin/import`: 8 MiB, of which 4 MiB of blocks are 5.4 MiB. */
export const ARRIVAL_BYTES_MAX = 8 * 1024 * 1024
/** Most cursors of one piece of an import. */
export const ARRIVAL_CURSORS_MAX = 1_000
/** Largest body of `POST /v1/append`: what one group of the log holds, 4 MiB. */
export const MULTI_APPEND_BYTES_MAX = 4 * 1024 * 1024

// ── Stopping ─────────────────────────────────────────────────────────────────────────────────────────────────────

/** Calls that are under way when the server stops have this long to end, ms; then their connections are cut. */
export const STOP_MS = 8_000
/** While it stops, a connection is closed on which nothing came for this long, ms: a request on its way is answered. */
export const STOP_IDLE_MS = 100
/** Clients that are sent away spread their return over this window, ms, unless configured. */
export const RETRY_WINDOW_MS = 5_000
/** A poll answered within this time after the streamer was turned on is told to spread its client's return, ms. */
export const SWITCH_NEWS_MS = 60_000

// ── Appends ──────────────────────────────────────────────────────────────────────────────────────────────────────

/**
 * Largest body of an append as JSON or MessagePack, and longest NDJSON line: 2 MiB. What is kept of it fits a block;
 * space, escapes and base64 are lost on the way.
 */
export const APPEND_BYTES_MAX = 2 * 1024 * 1024
/**
 * Bytes of appends that wait for a write; from here on a new one is refused before its body is read: 31 MiB, so that
 * what is read still finds its place within the 32 MiB that a log lets wait.
 */
export const PENDING_BYTES_MAX = 31 * 1024 * 1024
/** Bytes of bodies that are being received, of all requests together: 64 MiB. */
export const BODIES_BYTES_MAX = 64 * 1024 * 1024
/** What is left of a refused body up to this length is read off, and the connection lives. */
export const LEFTOVER_BYTES = 64 * 1024
/** A longer one is thrown away up to this many bytes and this long (ms), so that the refusal can be read. */
export const LINGER_BYTES_MAX = 8 * 1024 * 1024
export const LINGER_MS = 2_000
