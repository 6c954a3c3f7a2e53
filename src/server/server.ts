/** The server: one port for every door, from `listen` to a stop that loses nothing. */
import { setMaxListeners } from 'node:events'
import { createServer, type ServerOptions as HttpOptions, type IncomingMessage, type ServerResponse } from 'node:http'
import { pino } from 'pino'
import { Keyring } from '../access/keyring.ts'
import { Audit } from '../doors/audit.ts'
import { Callers, callerOf } from '../doors/callers.ts'
import { Census } from '../doors/census.ts'
import { Cookies } from '../doors/cookies.ts'
import { Counts } from '../doors/counts.ts'
import type { Doors } from '../doors/doors.ts'
import { Guard } from '../doors/guard.ts'
import * as limits from '../doors/limits.ts'
import { Pages } from '../doors/pages.ts'
import { LogSwitch } from '../doors/switch.ts'
import { Waits } from '../doors/waits.ts'
import { formatTime } from '../event.ts'
import { limitsOf } from '../limits.ts'
import { Keeper } from '../log/keeper.ts'
import type { Log } from '../log/log.ts'
import { StateWriter } from '../log/state-writer.ts'
import { States } from '../log/states.ts'
import { AUDIT_RETENTION, readRetentionRule } from '../retention.ts'
import { Streamer } from '../streamer/streamer.ts'
import { Connections } from './connections.ts'
import { logFailure } from './failure.ts'
import { Front } from './front.ts'
import { CLIENT_FILE } from './home.ts'
import { hotCall, isOpenCall } from './hot.ts'
import { checkOptions, type ServerOptions } from './options.ts'
import { Router } from './router.ts'

export interface RunningServer {
  /** `http://127.0.0.1:7070` */
  readonly url: string
  readonly port: number
  /** There are no keys: everybody who gets in is admin. */
  readonly isOpen: boolean
  /**
   * Stops within STOP_MS and a little: `/readyz` red, nothing more accepted, polls answered, streams and sockets ended
   * with a hint when to come back, appends under way answered. The log is its owner's to close, after this.
   */
  close(): Promise<void>
}

const PORT = 7070
const MIB = 1024 * 1024

/** @throws wrong-config; unavailable when the port is taken */
export async function startServer(log: Log, options: ServerOptions = {}): Promise<RunningServer> {
  const { host, path, access, peers, certificate } = await checkOptions(options)
  const logger = options.logger ?? pino({ enabled: false })
  const version = options.version ?? '0'
  const metrics = new Counts(options.groupFigures)
  const limited = limitsOf(options.limits)
  const stopping = new AbortController()
  // Every stream listens to it.
  setMaxListeners(0, stopping.signal)
  const keyring = options.keys === undefined ? Keyring.none() : await Keyring.open(options.keys, logger)
  const streamerSwitch = await LogSwitch.open(log, logger)
  const onNotice = (level: 'info' | 'warn', message: string, facts: object): void => logger[level](facts, message)
  const keeper = new Keeper(log, {
    rules: [...(options.retain ?? []), readRetentionRule(AUDIT_RETENTION)],
    cursorTtl: options.cursorTtl,
    onNotice,
  })
  const stateWriter = new StateWriter(log, { onNotice })
  const audit = new Audit({
    log,
    logger,
    isOn: () => !keyring.isOpen,
    started: () => ({ server: `tidemark/${version}`, url: url + path, settings: options.shown ?? [] }),
  })
  keyring.onChange((change) => audit.keys(change))
  const doors: Doors = {
    audit,
    guard: new Guard(limited),
    census: new Census(log, limited, logger),
    log,
    keeper,
    states: new States(log, { bytes: limited.stateMemory * MIB, signal: stopping.signal }),
    keyring,
    switch: streamerSwitch,
    waits: new Waits(log, streamerSwitch, keyring, stopping.signal),
    pages: new Pages(),
    logger,
    metrics,
    stopping: stopping.signal,
    settings: {
      server: `tidemark/${version}`,
      path,
      retryWindow: options.retryWindow ?? limits.RETRY_WINDOW_MS,
      createChannels: options.createChannels ?? true,
      heartbeat: options.heartbeat ?? limits.HEARTBEAT_MS,
      limits: limited,
    },
    failed: (door, error, facts) => metrics.failed(door, logFailure(logger, door, error, facts)),
  }

  const requestTimeout = options.requestTimeout ?? limits.REQUEST_MS
  const http: HttpOptions = {
    keepAlive: true,
    keepAliveTimeout: limits.KEEP_ALIVE_MS,
    headersTimeout: Math.min(limits.HEADERS_MS, requestTimeout),
    requestTimeout,
    connectionsCheckingInterval: limits.CHECK_MS,
    maxHeaderSize: limits.HEADER_BYTES_MAX,
    // Missing hosts and too many headers are refused by access.ts, with a code.
    requireHostHeader: false,
  }
  const server = certificate === undefined ? createServer(http) : certificate.serve(http, logger)
  server.maxHeadersCount = 0
  server.maxConnections = limited.maxConnections
  server.on('drop', () => metrics.failed('http', 'too-many'))
  server.on('tlsClientError', () => metrics.failed('http', 'bad-request'))

  const streamer = new Streamer(doors, {})
  keeper.signs.add(() => streamer.present())
  const cookies = new Cookies()
  const front: Front = new Front({
    doors,
    access,
    peers,
    callers: new Callers(keyring, cookies, peers),
    hot: hotCall,
    isOpen: isOpenCall,
    route: (req, res) => router.route(req, res),
    upgrade: (req, socket, head, from) => streamer.upgrade(req, socket, head, from),
  })
  const connections = new Connections(server, {
    busy: (socket) => front.busy(socket),
    upgraded: (socket) => front.upgraded(socket),
    unsentBytes: options.unsentBytes ?? limits.UNSENT_BYTES_MAX,
    onStalled: () => metrics.failed('http', 'timeout'),
    isSecure: certificate !== undefined,
    mayBePublic: () => !keyring.isOpen && (certificate !== undefined || options.tls !== undefined),
  })
  const startedAt = formatTime(Date.now())
  const fail = (req: IncomingMessage, res: ServerResponse, error: unknown) => front.fail(req, res, error)
  const router = new Router(async () => {
    const { makeRoutes } = await import('./routes.ts')
    return makeRoutes(doors, {
      fail,
      version,
      path,
      audited: (req) => {
        const from = { who: callerOf(req), address: peers.address(req) }
        return (facts) => audit.called({ ...from, ...facts })
      },
      checkAnswers: options.checkAnswers ?? false,
      watched: {
        startedAt,
        connections: () => connections.count,
        sockets: () => streamer.sockets,
        openConnections: (limit) =>
          connections.list(limit).map(([socket, since]) => ({
            address: front.addressOf(socket),
            door: front.doorOf(socket),
            ...streamer.about(socket),
            waiting: socket.writableLength,
            since: formatTime(since),
          })),
        url: () => url + path,
        settings: options.shown ?? [],
        dir: options.dir,
      },
      cookies,
      peers,
      clientFile: options.clientFile ?? CLIENT_FILE,
    })
  }, fail)
  front.attach(server)

  const release = () => {
    keyring.close()
    certificate?.close()
    return Promise.all([keeper.close(), stateWriter.close(), streamerSwitch.close(), router.close()])
  }
  const { url, port } = await connections.listen(host, options.port ?? PORT).catch(async (error) => {
    connections.close()
    await Promise.all([streamer.close(), release()])
    throw error
  })
  logger.debug({ url: url + path }, 'Listening')
  keeper.start()
  stateWriter.start()
  audit.started()
  router.loadSoon((error) => doors.failed('http', error))

  const stop = async () => {
    logger.info('Stopping')
    stopping.abort()
    const [cut] = await Promise.all([connections.drain(), streamer.close()])
    await audit.close()
    await release()
    if (cut > 0) logger.warn({ connections: cut }, 'Calls that did not end in time were cut')
    logger.info('Stopped')
  }
  let stopped: Promise<void> | undefined
  return {
    url,
    port,
    isOpen: keyring.isOpen,
    close: () => {
      stopped ??= stop()
      return stopped
    },
  }
}
