/** TLS of the server itself: its certificate and key, read from two files and read again when they change. */
import { X509Certificate } from 'node:crypto'
import { readFileSync, statSync } from 'node:fs'
import type { Server, ServerOptions } from 'node:http'
import { createServer, type Server as TlsServer } from 'node:https'
import { createSecureContext } from 'node:tls'
import type { Logger } from 'pino'
import { HEADERS_MS } from '../doors/limits.ts'
import { TidemarkError } from '../errors.ts'

/** How often the files are looked at, ms. */
const LOOK_MS = 500
const OLDEST = 'TLSv1.2'

interface Pair {
  readonly cert: Buffer
  readonly key: Buffer
}

export class Certificate {
  readonly #certFile: string
  readonly #keyFile: string
  /** What the files looked like that are in force, or that were refused. */
  #seen = ''
  #pair: Pair
  #timer: NodeJS.Timeout | undefined

  /** @throws wrong-config for files that can not be read, or do not belong together */
  constructor(certFile: string, keyFile: string) {
    this.#certFile = certFile
    this.#keyFile = keyFile
    this.#pair = this.#read()
  }

  /** An HTTP server over TLS, which takes up a new pair of files within two seconds. Connections that are open stay. */
  serve(options: ServerOptions, logger: Logger): Server {
    const server = createServer({ ...options, ...this.#pair, minVersion: OLDEST, handshakeTimeout: HEADERS_MS })
    this.#tell(logger)
    this.#follow(server, logger)
    // It is http's in all but its types.
    return server as unknown as Server
  }

  close(): void {
    clearInterval(this.#timer)
  }

  #read(): Pair {
    this.#seen = this.#look()
    const pair = { cert: readPart(this.#certFile), key: readPart(this.#keyFile) }
    try {
      createSecureContext({ ...pair, minVersion: OLDEST })
    } catch (cause) {
      const why = (cause as NodeJS.ErrnoException).code ?? 'unreadable'
      throw wrong(`${this.#certFile} and ${this.#keyFile} are no certificate and its key (${why})`)
    }
    return pair
  }

  #follow(server: TlsServer, logger: Logger): void {
    let before = this.#seen
    this.#timer = setInterval(() => {
      const now = this.#look()
      // Two files are not written at once: they are read when both have come to rest.
      const isSettled = now === before
      before = now
      if (!isSettled || now === this.#seen) return
      try {
        this.#pair = this.#read()
        server.setSecureContext({ ...this.#pair, minVersion: OLDEST })
        this.#tell(logger)
      } catch (error) {
        const why = (error as Error).message
        logger.error({ why }, 'The new certificate can not be taken up: the one before stays in force')
      }
    }, LOOK_MS).unref()
  }

  /** What changes when one of the files does. */
  #look(): string {
    const looks = [this.#certFile, this.#keyFile].map((file) => {
      try {
        const { ino, size, mtimeNs, ctimeNs } = statSync(file, { bigint: true })
        return [ino, size, mtimeNs, ctimeNs].join(' ')
      } catch (error) {
        return (error as NodeJS.ErrnoException).code
      }
    })
    return looks.join('\n')
  }

  #tell(logger: Logger): void {
    const { subjectAltName, subject, validTo } = new X509Certificate(this.#pair.cert)
    const facts = { names: subjectAltName ?? subject, until: new Date(validTo).toISOString() }
    if (Date.parse(validTo) > Date.now()) logger.info(facts, 'TLS is in force')
    else logger.error(facts, 'TLS is in force with a certificate that has expired: clients will refuse it')
  }
}

function readPart(file: string): Buffer {
  try {
    return readFileSync(file)
  } catch (error) {
    throw wrong(`${file} can not be read (${(error as NodeJS.ErrnoException).code})`)
  }
}

const wrong = (why: string): TidemarkError => new TidemarkError('wrong-config', `TLS: ${why}`)
