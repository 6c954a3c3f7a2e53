/** What a person or a page fetches from the server: the error table, the OpenAPI page, the browser client. */
import { createHash } from 'node:crypto'
import { readFile, stat } from 'node:fs/promises'
import { ERRORS, ERRORS_PAGE, TidemarkError } from '../errors.ts'
import { JSON_TYPE } from '../event.ts'
import { type App, sendAsIs } from './app.ts'
import * as schemas from './schemas.ts'

/**
 * @param clientFile of the browser client, made by the build; `/client.js` is `not-found` while there is none. What it
 *   loads for msgpack lies beside it.
 */
export function addPages(app: App, clientFile: string): void {
  const tags = ['server']

  app.get(
    ERRORS_PAGE,
    {
      schema: {
        tags,
        summary: 'Every error code, for people',
        querystring: schemas.NoQuery,
        response: { 200: schemas.textOf('text/html'), default: schemas.Refusal },
      },
    },
    async (_, reply) =>
      sendAsIs(
        reply.header('content-security-policy', "default-src 'none'; style-src 'unsafe-inline'"),
        'text/html; charset=utf-8',
        ERRORS_HTML,
      ),
  )

  app.get(
    '/openapi.json',
    {
      schema: {
        tags,
        summary: 'This page',
        querystring: schemas.NoQuery,
        response: { 200: schemas.OpenApi, default: schemas.Refusal },
      },
    },
    async (_, reply) => sendAsIs(reply, JSON_TYPE, JSON.stringify(app.swagger())),
  )

  addFile(app, '/client.js', clientFile, 'The client for browsers', schemas.NoQuery)
  for (const [part, summary] of CLIENT_PARTS)
    addFile(app, `/client-${part}.js`, clientFile.replace(/\.js$/, `-${part}.js`), summary, schemas.PartQuery)
}

/** What the client loads when it is needed. */
const CLIENT_PARTS = [
  ['msgpack', 'A part of the client: the msgpack subprotocol'],
  ['append', 'A part of the client: appends'],
  ['poll', 'A part of the client: all that goes over HTTP'],
  ['state', 'A part of the client: states, and following from them'],
  ['bell', 'A part of the client: how the tabs of an origin share one waiting poll'],
] as const

function addFile(
  app: App,
  path: string,
  file: string,
  summary: string,
  querystring: typeof schemas.NoQuery | typeof schemas.PartQuery,
): void {
  let known: ClientFile | undefined
  app.get(
    path,
    {
      schema: {
        tags: ['server'],
        summary,
        querystring,
        response: { 200: schemas.textOf('text/javascript'), 304: schemas.Nothing, default: schemas.Refusal },
      },
    },
    async (request, reply) => {
      known = await currentFile(file, known)
      if (known === undefined) throw new TidemarkError('not-found', 'The client was not built (tools/build.mjs)')
      reply.header('etag', known.etag).header('cache-control', 'no-cache')
      if (request.headers['if-none-match'] === known.etag) return reply.code(304).send()
      return sendAsIs(reply, 'text/javascript; charset=utf-8', known.bytes)
    },
  )
}

interface ClientFile {
  readonly changed: number
  readonly etag: string
  readonly bytes: Buffer
}

/** The file as it is now; read again only when it was written since. Undefined when there is none. */
async function currentFile(file: string, known: ClientFile | undefined): Promise<ClientFile | undefined> {
  try {
    const { mtimeMs } = await stat(file)
    if (known?.changed === mtimeMs) return known
    const bytes = await readFile(file)
    const etag = `"${createHash('sha256').update(bytes).digest('base64url').slice(0, 22)}"`
    return { changed: mtimeMs, etag, bytes }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
}

/** Only constants of ours stand in it: nothing to escape. */
const ERRORS_HTML = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Tidemark errors</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color-scheme: light dark }
  table { border-collapse: collapse; width: 100% }
  th, td { text-align: left; padding: 0.4rem 1rem 0.4rem 0; border-bottom: 1px solid #8884 }
  tr:target { background: #fc03 }
</style>
<h1>Errors</h1>
<p>Every failed call is answered with one of these codes, as <code>application/problem+json</code>. Test the code: the sentences may change.</p>
<table>
<tr><th>code<th>HTTP<th>on a WebSocket<th>exit code<th>meaning
${Object.entries(ERRORS)
  .map(
    ([code, row]) =>
      `<tr id="${code}"><td><code>${code}</code><td>${row.status}<td>${typeof row.ws === 'number' ? `close ${row.ws}` : row.ws}<td>${row.exit}<td>${row.title}`,
  )
  .join('\n')}
</table>
</html>
`
