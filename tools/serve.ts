import { resolve } from 'node:path'
import closeWithGrace from 'close-with-grace'
import type { Command } from 'commander'
import { type Logger, pino } from 'pino'
import { keysFileOf } from '../src/access/keysfile.ts'
import { type Config, flagOf, type SettingName, type Settings } from '../src/config.ts'
import { GroupFigures } from '../src/doors/counts.ts'
import { TidemarkError } from '../src/errors.ts'
import { LIMIT_NAMES, limitsOf } from '../src/limits.ts'
import type { Durability, Log } from '../src/log/log.ts'
import { openLog } from '../src/log/open.ts'
import { version } from '../src/server/home.ts'
import { checkOptions } from '../src/server/options.ts'
import type { RunningServer } from '../src/server/server.ts'
import { command, type Run } from './command.ts'
import { Journal } from './journal.ts'
import { natsOptionsOf } from './nats.ts'
import type { Terminal } from './terminal.ts'

/** A stop that takes longer is cut, ms; what was answered is on disk by then. */
const STOP_MS = 9_500

const SERVED: readonly SettingName[] = [
  'host',
  'port',
  'data',
  'keys',
  'create',
  'engine',
  'natsNamespace',
  'natsReplicas',
  'natsMaxBytes',
  'natsCreds',
  'natsCa',
  'natsCert',
  'natsKey',
  'natsSync',
  'requireDurability',
  'path',
  'origin',
  'hostName',
  'tlsCert',
  'tlsKey',
  'tls',
  'trustedProxy',
  'createChannels',
  'heartbeat',
  'idWindow',
  'retain',
  'cursorTtl',
  'tailBytes',
  'minFree',
  ...LIMIT_NAMES,
  'logLevel',
  'acceptCopy',
  'acceptDataLoss',
]

export const serveCommand = (terminal: Terminal): Command =>
  command(
    {
      usage: 'serve',
      summary: 'serve a log: HTTP, server-sent events and WebSocket on one port',
      more:
        'Writes its log to stdout, one JSON object a line; lines that stdout does not take are dropped. SIGTERM or ' +
        'Ctrl-C stops it: polls are answered, sockets closed with a hint when to come back, no answered append is lost; ' +
        'a second signal ends it at once. Without a keys file (tidemark keys create) everybody who can reach it may do ' +
        'everything, and it listens on loopback only; on another address it asks for keys and for TLS, its own or a ' +
        "proxy's. A change of the keys, the certificate or its key holds within two seconds.",
      settings: SERVED,
      examples: [
        ['tidemark serve', 'on http://127.0.0.1:7070, the log in data/log'],
        ['tidemark serve --port 8080 --data /var/lib/tidemark', 'elsewhere'],
        ['tidemark serve --origin https://app.example', 'pages of another site may call'],
        ['tidemark serve --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem', 'for others, with keys'],
      ],
    },
    terminal,
    serve,
  )

/** Serves until a signal ends the process; returns when it is serving. */
export async function serve({ settings, config, terminal }: Run): Promise<void> {
  const journal = new Journal((why) => terminal.say(`tidemark: log lines are lost, stdout does not take them (${why})`))
  const logger = pino(
    {
      level: settings.logLevel,
      base: { pid: process.pid },
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    journal,
  )
  const { log, server } = await start(settings, config, logger)
  // Before anybody is told that it serves: who knows may ask it to stop.
  closeWithGrace(
    {
      delay: STOP_MS,
      logger: false,
      onSecondSignal: (signal) => logger.fatal({ signal }, 'Second signal, ending at once'),
      onSecondError: (error) => logger.fatal({ err: error }, 'Failed while stopping'),
      onTimeout: (delay) => logger.fatal({ delay }, 'The stop took too long, ending at once'),
    },
    async ({ signal, err }) => {
      if (err) logger.fatal({ err }, 'Failed')
      else logger.info({ signal }, 'Asked to stop')
      await server.close()
      await log.close()
      logger.info('The log is closed')
      if (journal.dropped > 0) terminal.say(`tidemark: ${journal.dropped} log lines were lost`)
    },
  )

  const { engine, durability } = log.about
  const data = settings.engine === 'level' ? resolve(settings.data) : masked(settings.engine)
  const facts = { url: server.url + settings.path, data, engine, durability }
  logger.info(facts, 'Serving')
  const when = WHEN[durability]
  terminal.say(`tidemark: serving ${facts.url} from ${facts.data}, engine ${engine}, ${when}`)
  if (!server.isOpen) return
  const warning = 'NO KEYS: every program and every user of this machine that can reach this address is its admin'
  logger.warn({ url: facts.url }, warning)
  terminal.say(`tidemark: ${warning}`)
}

/**
 * Opens the log and the server over it.
 * @throws what openLog and startServer throw; nothing is left open then.
 */
export async function start(
  settings: Settings,
  config: Config,
  logger: Logger,
): Promise<{ log: Log; server: RunningServer }> {
  const groupFigures = new GroupFigures()
  const { host, port, path, createChannels, heartbeat, acceptCopy, acceptDataLoss } = settings
  const { origin: origins, hostName: hostNames, tls, tlsCert, tlsKey, trustedProxy: trustedProxies } = settings
  const keys = keysFileOf(settings)
  const secure = { tls, tlsCert, tlsKey, trustedProxies }
  const about = { host, port, path, origins, hostNames, keys, ...secure, createChannels, heartbeat, version: version() }
  // A log is opened, or made, only for a server that can run.
  await checkOptions(about)
  const opening = openLog({
    dir: resolve(settings.data),
    create: settings.create,
    acceptCopy,
    acceptDataLoss,
    // NATS holds each key in memory: a day of them only for who asks for it.
    ...(settings.engine === 'level' || config.origins.idWindow.source !== 'default'
      ? { idWindow: settings.idWindow }
      : {}),
    ...(settings.engine !== 'level' && { nats: natsOptionsOf(settings) }),
    retain: settings.retain,
    tailBytes: settings.tailBytes,
    ...(settings.minFree !== undefined && { minFreeBytes: settings.minFree }),
    onGroup: groupFigures.add,
    onNotice: (level, message, facts) => logger[level](facts, message),
  })
  // The server is loaded while the log is opened.
  const loading = import('../src/server/server.ts')
  loading.catch(() => undefined)
  const log = await opening
  try {
    needDurability(log.about.durability, settings.requireDurability)
    const { startServer } = await loading
    const server = await startServer(log, {
      ...about,
      logger,
      groupFigures,
      retain: settings.retain,
      limits: limitsOf(settings),
      cursorTtl: settings.cursorTtl,
      ...(settings.engine === 'level' && { dir: resolve(settings.data) }),
      shown: shownOf(config),
    })
    return { log, server }
  } catch (error) {
    await log.close()
    throw error
  }
}

/** What an answer to an append says, in words. */
const WHEN: Readonly<Record<Durability, string>> = {
  fsync: 'an append is answered after its fsync',
  replicated: 'an append is answered when several servers have it, in memory at least (replicated)',
  memory: 'an append is answered from memory: a crash loses it',
  unknown: 'nobody told whether an answered append is on disk (--nats-sync): a power cut may lose the newest',
}
const SAFETY: readonly Durability[] = ['unknown', 'memory', 'replicated', 'fsync']

/** @throws wrong-config */
function needDurability(durability: Durability, needed: Durability | undefined): void {
  if (needed === undefined || SAFETY.indexOf(durability) >= SAFETY.indexOf(needed)) return
  throw new TidemarkError(
    'wrong-config',
    `--require-durability ${needed}: here it is ${durability}; ${WHEN[durability]}`,
  )
}

/** An address without what may stand in it for a password. */
const masked = (text: string): string => text.replaceAll(/\/\/[^/@\s]*@/g, '//…@')

/** The settings of a server as they were given, an address without what may stand in it for a password. */
const shownOf = ({ origins }: Config) =>
  SERVED.map((name) => {
    const { source, where, value } = origins[name]
    const text = Array.isArray(value) ? value.join(', ') : String(value ?? '')
    return {
      name: flagOf(name),
      value: masked(text),
      from: where === undefined ? source : `${source} ${where}`,
    }
  })
