/**
 * A client of several gateways that are troubled. Whatever is told `unavailable` it sends again through another gateway,
 * appends under a key, so that each happens once. What it sent behind that comes behind it again, and what it is given
 * meanwhile waits for its turn: so order is kept, as by a producer that goes on only with what is answered.
 */
import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { hasCode, type TidemarkError } from '../../src/errors.ts'
import type { Append, Appended, AppendOptions, ChannelInfo, Log, Place } from '../../src/log/log.ts'
import type { Dice } from '../crash/dice.ts'
import { isAnyKeeper, submitBy } from './alternating.ts'
import { Gateway } from './gateway.ts'
import { list } from './reading.ts'

/** Between two tries of a call, ms. */
const AGAIN_MS = 50
/** Longer than any fault, and shorter than a key is remembered, ms: who is still refused then is told so. */
const PATIENCE_MS = 100_000

/** What one client was told of one log, whichever gateways it had: what the second try of a call cannot tell. */
class Memory {
  /** Channels that it made or appended to, and the keys under which it did. */
  readonly #keys = new Map<string, Set<string>>()
  readonly #cursors = new Set<string>()

  appended(channel: string, key?: string): void {
    const keys = this.#keys.get(channel) ?? new Set()
    if (key !== undefined) keys.add(key)
    this.#keys.set(channel, keys)
  }

  deleted(channel: string): void {
    this.#keys.delete(channel)
  }

  hasChannel(channel: string): boolean {
    return this.#keys.has(channel)
  }

  hasKey(channel: string, key: string): boolean {
    return this.#keys.get(channel)?.has(key) === true
  }

  committed(client: string, channel: string): void {
    this.#cursors.add(`${client} ${channel}`)
  }

  forgotten(client: string, channel: string): void {
    this.#cursors.delete(`${client} ${channel}`)
  }

  hasCursor(client: string, channel: string): boolean {
    return this.#cursors.has(`${client} ${channel}`)
  }
}

/** What clients met, and what they remember of each log. */
export class Patience {
  /** Tries that were refused, by what was said of their outcome. */
  readonly refused: Record<string, number> = {}
  calls = 0
  /** The longest that a call took with all its tries, ms. */
  longest = 0
  /** Waits that were woken where nothing had changed. */
  wokenForNothing = 0
  readonly #memories = new Map<string, Memory>()
  readonly #clients = new Set<Client>()

  memoryOf(namespace: string): Memory {
    const memory = this.#memories.get(namespace) ?? new Memory()
    this.#memories.set(namespace, memory)
    return memory
  }

  began(client: Client): void {
    this.#clients.add(client)
  }

  ended(client: Client): void {
    this.#clients.delete(client)
  }

  refuse(outcome: unknown): void {
    const kind = String(outcome ?? 'refused')
    this.refused[kind] = (this.refused[kind] ?? 0) + 1
  }

  /**
   * Kills a gateway that has calls under way, as soon as there is one, and opens another one in its place.
   * False when it was over before.
   */
  async killOne(random: Dice, over: AbortSignal): Promise<boolean> {
    while (!over.aborted) {
      const busy = [...this.#clients].filter(({ isBusy }) => isBusy)
      const client = busy[random(busy.length)]
      if (client) {
        await client.killOne()
        return true
      }
      await delay(1)
    }
    return false
  }

  get told(): string {
    const { calls, longest, refused, wokenForNothing } = this
    const again = `refused and tried again ${JSON.stringify(refused)}, ${wokenForNothing} waits woken for nothing`
    return `${calls} calls, longest ${(longest / 1_000).toFixed(1)} s, ${again}`
  }
}

interface Call {
  readonly place: number
  readonly started: number
  /** @param isDoubtful an earlier try may have done it */
  readonly send: (log: Log, isDoubtful: boolean) => Promise<unknown>
  readonly resolve: (answer: unknown) => void
  readonly reject: (error: unknown) => void
  isDoubtful: boolean
}

/** The log is away, and not only one of its names is taken for now. */
const isAway = (error: unknown): error is TidemarkError =>
  hasCode(error, 'unavailable') && (error as TidemarkError).details.channel === undefined

class Client {
  readonly #open: () => Promise<Log>
  readonly #patience: Patience
  readonly #memory: Memory
  readonly #gateways: Gateway[]
  #turn = 0
  #sent = 0
  #underWay = 0
  /** Those that wait for another gateway. */
  #waiting: Call[] = []
  #isAgain = false
  #onIdle = (): void => {}
  #closed: Promise<void> | undefined

  constructor(gateways: Gateway[], open: () => Promise<Log>, patience: Patience, memory: Memory) {
    this.#gateways = gateways
    this.#open = open
    this.#patience = patience
    this.#memory = memory
    patience.began(this)
  }

  get log(): Log {
    return this.#gateways[0]!.log
  }

  get isBusy(): boolean {
    return this.#underWay > 0 && this.#closed === undefined
  }

  async killOne(): Promise<void> {
    const which = this.#turn % this.#gateways.length
    this.#gateways[which]!.kill()
    const anew = await Gateway.start(this.#open)
    if (this.#closed) await anew.log.close()
    else this.#gateways[which] = anew
  }

  /** Another one than before, which is alive. */
  #another(): Gateway {
    do this.#turn++
    while (this.#current.isDead)
    return this.#current
  }

  get #current(): Gateway {
    return this.#gateways[this.#turn % this.#gateways.length]!
  }

  call(send: Call['send']): Promise<unknown> {
    // Who comes to a log that is closed is told so.
    if (this.#closed) return send(this.log, false)
    return new Promise((resolve, reject) => {
      const started = performance.now()
      const call = { place: ++this.#sent, started, send, resolve, reject, isDoubtful: false }
      if (this.#waiting.length > 0 || this.#isAgain || this.#current.isDead) this.#wait(call)
      else void this.#send(call, this.#underWay === 0 ? this.#another() : this.#current)
    })
  }

  #wait(call: Call): void {
    this.#waiting.push(call)
    if (this.#underWay === 0 && !this.#isAgain) void this.#again()
  }

  async #send(call: Call, gateway: Gateway): Promise<void> {
    this.#underWay++
    try {
      call.resolve(await gateway.answer((log) => call.send(log, call.isDoubtful)))
      this.#patience.calls++
      this.#patience.longest = Math.max(this.#patience.longest, performance.now() - call.started)
    } catch (error) {
      if (isAway(error) && performance.now() - call.started < PATIENCE_MS) {
        const { outcome } = error.details
        call.isDoubtful ||= outcome === 'unknown'
        this.#patience.refuse(gateway.isDead ? 'its gateway killed' : outcome)
        this.#waiting.push(call)
      } else call.reject(error)
    }
    this.#underWay--
    if (this.#underWay > 0) return
    if (this.#waiting.length > 0) void this.#again()
    else this.#onIdle()
  }

  /** Sends all that wait, in their order, through another gateway. */
  async #again(): Promise<void> {
    this.#isAgain = true
    await delay(AGAIN_MS)
    // One that was closed finished what it could; the rest is brought to one that was started anew.
    if (this.#closed) this.#gateways.push(await Gateway.start(this.#open))
    const gateway = this.#closed ? this.#gateways.at(-1)! : this.#another()
    const calls = this.#waiting.sort((a, b) => a.place - b.place)
    this.#waiting = []
    this.#isAgain = false
    for (const call of calls) void this.#send(call, gateway)
  }

  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async #close(): Promise<void> {
    this.#patience.ended(this)
    const isIdle = this.#underWay === 0 && this.#waiting.length === 0
    const idle = new Promise<void>((resolve) => {
      this.#onIdle = resolve
    })
    await Promise.all(this.#gateways.map(({ log }) => log.close()))
    if (isIdle) return
    await idle
    await Promise.all(this.#gateways.map(({ log }) => log.close()))
  }

  async append(entries: readonly Append[], options: AppendOptions = {}): Promise<readonly Appended[]> {
    const { idempotencyKey = randomUUID() } = options
    let isDoubtful = false
    const answers = (await this.call((log, isAgain) => {
      isDoubtful = isAgain
      return log.append(entries, { ...options, idempotencyKey })
    })) as readonly Appended[]
    const isKnown = answers.some(({ channel }) => this.#memory.hasKey(channel, idempotencyKey))
    for (const { channel } of answers) this.#memory.appended(channel, idempotencyKey)
    // It is a duplicate of its own first try.
    return isDoubtful && !isKnown ? answers.map(({ duplicate: _, ...answer }) => answer) : answers
  }

  async delete(...args: Parameters<Log['delete']>): Promise<void> {
    await this.call(async (log, isDoubtful) => {
      try {
        await log.delete(...args)
      } catch (error) {
        if (!isDoubtful || !hasCode(error, 'no-channel') || !this.#memory.hasChannel(args[0])) throw error
      }
      this.#memory.deleted(args[0])
    })
  }

  forget(...args: Parameters<Log['forget']>): Promise<unknown> {
    const [client, channel] = args
    return this.call(async (log, isDoubtful) => {
      let isGone = await log.forget(...args)
      if (!isGone && isDoubtful && this.#memory.hasCursor(client, channel))
        isGone = (await log.cursor(client, channel)) === undefined
      if (isGone) this.#memory.forgotten(client, channel)
      return isGone
    })
  }

  async move(verb: 'commit' | 'seek', args: Parameters<Log['commit']>): Promise<unknown> {
    const cursor = await this.call((log) => log[verb](...args))
    this.#memory.committed(args[0], args[1])
    return cursor
  }

  async made(verb: 'configure' | 'arrive', args: readonly [string, ...unknown[]]): Promise<unknown> {
    const answer = await this.plain(verb, args)
    this.#memory.appended(args[0])
    return answer
  }

  plain(verb: string, args: readonly unknown[]): Promise<unknown> {
    return this.call((log) => Reflect.apply(Reflect.get(log, verb), log, args))
  }

  /** As whoever follows a channel: who is woken looks, and waits again where there is nothing. */
  async changed(channel: string, from: Place, signal: AbortSignal): Promise<void> {
    for (;;)
      try {
        await this.#current.answer((log) => log.changed(channel, from, signal))
        if (await this.#hasChanged(channel, from)) return
        this.#patience.wokenForNothing++
      } catch (error) {
        if (signal.aborted || this.#closed || !isAway(error)) throw error
        await delay(AGAIN_MS)
      }
  }

  async #hasChanged(channel: string, { epoch, after }: Place): Promise<boolean> {
    try {
      const now = (await this.plain('info', [channel])) as ChannelInfo
      return now.head !== after || now.trimmed > after || (epoch !== undefined && now.epoch !== epoch)
    } catch (error) {
      if (hasCode(error, 'no-channel')) return epoch !== undefined
      throw error
    }
  }
}

/**
 * Gateways of one log, as one log.
 * @param open another gateway @param namespace of the log
 */
export async function patient(
  count: number,
  open: () => Promise<Log>,
  patience: Patience,
  namespace: string,
): Promise<Log> {
  const gateways = await Promise.all(Array.from({ length: count }, () => Gateway.start(open)))
  const client = new Client(gateways, open, patience, patience.memoryOf(namespace))
  async function* all(name: 'channels' | 'cursors' | 'allCursors', args: readonly unknown[]): AsyncGenerator<unknown> {
    const collect = (log: Log) => list(Reflect.apply(Reflect.get(log, name)!, log, args) as AsyncIterable<unknown>)
    yield* (await client.call(collect)) as unknown[]
  }
  const members: Record<string, unknown> = {
    get isKeeper() {
      return isAnyKeeper(gateways.map(({ log }) => log))
    },
    append: client.append.bind(client),
    submit: submitBy((entries, options) => client.append(entries, options)),
    changed: client.changed.bind(client),
    delete: client.delete.bind(client),
    forget: client.forget.bind(client),
    close: client.close.bind(client),
    // It may be a moment old: not what the gateway before just answered.
    recent: () => undefined,
    // While nodes are stopped it may say so.
    health: () => {
      const health = client.log.health()
      return health.state === 'reopening' ? { ...health, state: 'ok' } : health
    },
  }
  for (const verb of ['commit', 'seek'] as const)
    members[verb] = (...args: Parameters<Log['commit']>) => client.move(verb, args)
  for (const verb of ['configure', 'arrive'] as const)
    members[verb] = (...args: [string, ...unknown[]]) => client.made(verb, args)
  for (const name of ['channels', 'cursors', 'allCursors'] as const)
    members[name] = (...args: unknown[]) => all(name, args)
  return new Proxy(client.log, {
    get(first, name) {
      if (Object.hasOwn(members, name)) return Reflect.get(members, name)
      const member: unknown = Reflect.get(first, name)
      if (typeof member !== 'function') return member
      return (...args: unknown[]) => client.plain(String(name), args)
    },
  })
}
