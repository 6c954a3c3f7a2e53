/**
 * The console at `/console/`: the files of the build, read once, under a policy that lets nothing in from elsewhere.
 * The page finds the calls by the path that stands in it, whatever host or proxy it came through.
 */
import { createHash } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import { extname, join } from 'node:path'
import { TidemarkError } from '../errors.ts'
import { type App, sendAsIs } from './app.ts'
import * as schemas from './schemas.ts'

/** No inline code or style, no eval, no frames, no markup made of texts, no other server. */
const POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self' data:",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
  "require-trusted-types-for 'script'",
  "trusted-types 'none'",
].join('; ')

const TYPES: Readonly<Record<string, string>> = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
}
const PAGE = 'index.html'
/** A year, s: the name of an asset changes with its bytes. */
const FOREVER = 'public, max-age=31536000, immutable'
/** As the build leaves it in the page. */
const API = 'data-api="../v1/"'

interface BuiltFile {
  readonly bytes: Buffer
  readonly type: string
  readonly etag: string
  readonly caching: string
}

/** @param dir of the console as built; the console is `not-found` while there is none. @param path of the calls */
export function addConsole(app: App, dir: string, path: string): void {
  let files: Promise<ReadonlyMap<string, BuiltFile>> | undefined
  const find = async (name: string): Promise<BuiltFile> => {
    files ??= readFiles(dir, path).catch((error: unknown) => {
      files = undefined
      throw error
    })
    const file = (await files).get(name)
    if (file === undefined) throw new TidemarkError('not-found', 'There is nothing at this address')
    return file
  }
  const hidden = { schema: { hide: true, querystring: schemas.NoQuery } }

  // Relative, so that a proxy may put the server below a path of its own.
  app.get('/console', hidden, async (_, reply) => reply.header('location', 'console/').code(308).send())

  for (const url of ['/console/', '/console/:file'])
    app.get<{ Params: { file?: string } }>(url, hidden, async (request, reply) => {
      const { bytes, type, etag, caching } = await find(request.params.file ?? PAGE)
      reply.headers({
        etag,
        'cache-control': caching,
        'content-security-policy': POLICY,
        'referrer-policy': 'no-referrer',
        'x-frame-options': 'DENY',
        'cross-origin-opener-policy': 'same-origin',
        'cross-origin-resource-policy': 'same-origin',
      })
      if (request.headers['if-none-match'] === etag) return reply.code(304).send()
      return sendAsIs(reply, type, bytes)
    })
}

async function readFiles(dir: string, path: string): Promise<ReadonlyMap<string, BuiltFile>> {
  const names = await readdir(dir).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT')
      throw new TidemarkError('not-found', 'The console was not built (tools/build.mjs)', {}, { cause: error })
    throw error
  })
  const files = names.map(async (name): Promise<[string, BuiltFile]> => {
    const read = await readFile(join(dir, name))
    const bytes = name === PAGE ? Buffer.from(read.toString().replace(API, `data-api="..${path}/"`)) : read
    const etag = `"${createHash('sha256').update(bytes).digest('base64url').slice(0, 22)}"`
    const caching = name === PAGE ? 'no-cache' : FOREVER
    return [name, { bytes, etag, caching, type: TYPES[extname(name)] ?? 'application/octet-stream' }]
  })
  return new Map(await Promise.all(files))
}
