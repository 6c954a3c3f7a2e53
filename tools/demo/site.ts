/** Where the page of the live folder comes from: an origin of its own, as any site's page would have. */
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { TidemarkError } from '../../src/errors.ts'
import { HOME } from '../../src/server/home.ts'

const HOST = '127.0.0.1'

/** What the page is to show. */
export interface Shown {
  /** Origin of the Tidemark server, and where the calls stand on it. */
  readonly server: string
  readonly path: string
  readonly channel: string
  /** Directory that is watched, absolute. */
  readonly folder: string
}

const source = (name: string): string => join(HOME, 'tools', 'demo', name)
const built = (name: string): string => fileURLToPath(new URL(name, import.meta.url))

/** Everything that is given out. The page's modules are the compiled ones: a browser needs no bundler for them. */
const FILES = new Map<string, readonly [file: string, type: string]>([
  ['/', [source('page.html'), 'text/html']],
  ['/icon.svg', [source('icon.svg'), 'image/svg+xml']],
  ['/demo/page.css', [source('page.css'), 'text/css']],
  ['/demo/page.js', [built('page.js'), 'text/javascript']],
  ['/demo/folder.js', [built('folder.js'), 'text/javascript']],
  ['/demo/rows.js', [built('rows.js'), 'text/javascript']],
  ['/demo/strip.js', [built('strip.js'), 'text/javascript']],
  ['/watch/tree.js', [built('../watch/tree.js'), 'text/javascript']],
])

export class Site {
  readonly #server: Server
  readonly #port: number
  #shown: Shown | undefined

  private constructor(server: Server) {
    this.#server = server
    this.#port = (server.address() as AddressInfo).port
    server.on('request', (req, res) => void this.#answer(req, res))
  }

  /**
   * @param port 0 takes a free one
   * @throws unavailable when the port is taken
   */
  static async listen(port: number): Promise<Site> {
    const server = createServer()
    const listening = once(server, 'listening')
    server.listen(port, HOST)
    try {
      await listening
    } catch (cause) {
      const { code } = cause as NodeJS.ErrnoException
      const why = code === 'EADDRINUSE' ? 'is taken by another program' : `can not be listened on (${code})`
      throw new TidemarkError('unavailable', `${HOST}:${port} ${why}`, {}, { cause })
    }
    return new Site(server)
  }

  get url(): string {
    return `http://${HOST}:${this.#port}`
  }

  show(shown: Shown): void {
    this.#shown = shown
  }

  async close(): Promise<void> {
    const closed = once(this.#server, 'close')
    this.#server.close()
    this.#server.closeAllConnections()
    await closed
  }

  async #answer({ url = '', method, headers }: IncomingMessage, res: ServerResponse): Promise<void> {
    const file = FILES.get(url.split('?', 1)[0]!)
    // Under another name (localhost) the page would have an origin that the server does not list.
    if (headers.host !== `${HOST}:${this.#port}`) return void res.writeHead(302, { location: `${this.url}/` }).end()
    if (this.#shown === undefined) return void res.writeHead(503, { 'retry-after': '1' }).end()
    if (file === undefined || (method !== 'GET' && method !== 'HEAD')) return void res.writeHead(404).end()
    const [path, type] = file
    const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => error)
    if (text instanceof Error) return void res.writeHead(500).end(`${path} can not be read (${text.code})`)
    res.writeHead(200, {
      'content-type': `${type}; charset=utf-8`,
      'content-security-policy': policyFor(this.#shown.server),
      'cache-control': 'no-cache',
      'referrer-policy': 'no-referrer',
      'x-content-type-options': 'nosniff',
    })
    res.end(type === 'text/html' ? filled(text, this.#shown) : text)
  }
}

/** Nothing inline; beside this site only the server: its client, its calls, its socket. */
function policyFor(server: string): string {
  const socket = server.replace(/^http/, 'ws')
  return [
    "default-src 'none'",
    `script-src 'self' ${server}`,
    "style-src 'self'",
    "img-src 'self'",
    `connect-src ${server} ${socket}`,
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ].join('; ')
}

/** Puts values in place of `{{name}}`. */
const filled = (html: string, shown: Shown): string =>
  html.replace(/\{\{(\w+)\}\}/g, (_, name: string) => escaped(String(shown[name as keyof Shown])))

const escaped = (text: string): string => text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`)
