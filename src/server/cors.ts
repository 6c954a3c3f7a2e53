/** CORS for the origins listed by `--origin`; every other page was refused before. */
import type { IncomingMessage, ServerResponse } from 'node:http'

const METHODS = 'GET, HEAD, POST, PUT, DELETE'
const REQUEST_HEADERS = 'Accept, Authorization, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID'
const ANSWER_HEADERS =
  'Allow, ETag, Retry-After, Tidemark-Epoch, Tidemark-After, Tidemark-Last, Tidemark-Head, Tidemark-Trimmed'
/** How long a browser may keep the answer to a preflight, seconds. */
const PREFLIGHT_SECONDS = 600

/** Lets the pages of this origin read the answer. */
export function allowOrigin(res: ServerResponse, origin: string): void {
  res.setHeader('Access-Control-Allow-Origin', origin)
  res.setHeader('Access-Control-Expose-Headers', ANSWER_HEADERS)
  res.setHeader('Vary', 'Origin')
}

export const isPreflight = (req: IncomingMessage): boolean =>
  req.method === 'OPTIONS' && req.headers['access-control-request-method'] !== undefined

/** Answers the question that a browser asks before a call that no form could make. */
export function answerPreflight(req: IncomingMessage, res: ServerResponse): void {
  res.setHeader('Access-Control-Allow-Methods', METHODS)
  res.setHeader('Access-Control-Allow-Headers', REQUEST_HEADERS)
  res.setHeader('Access-Control-Max-Age', PREFLIGHT_SECONDS)
  // A public page may then call a server on loopback, where browsers ask for that separately.
  if (req.headers['access-control-request-private-network'] === 'true')
    res.setHeader('Access-Control-Allow-Private-Network', 'true')
  res.writeHead(204).end()
}
