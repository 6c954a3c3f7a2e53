/**
 * tools/deploy as it is given to users, live: its nginx and Caddy configurations with their real programs, and the flags
 * of its compose file, over a NATS and two servers on loopback. Only addresses and paths are others.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, onTestFinished, test, vi } from 'vitest'
import { parse } from 'yaml'
import { connect } from '../../src/client/node.ts'
import { debian } from '../../tools/bench/packages.ts'
import { freePort } from '../../tools/bench/peer.ts'
import { makeCertificate } from '../certificate.ts'
import { natsOfFile } from '../log/nats.ts'
import { range, tempDir } from '../parts.ts'
import { startProgram } from '../server/proxies.ts'
import { run, type Serving, serving } from './program.ts'

const nats = await natsOfFile()

const CHANNELS = range(1, 4).map((i) => `orders/${i}`)
/** Appends of each channel between two restarts. */
const BETWEEN = 10

const deployed = (name: string): string => readFileSync(new URL(`../../tools/deploy/${name}`, import.meta.url), 'utf8')

/** Puts other words in place of those that must be there. */
const changed = (text: string, words: Readonly<Record<string, string>>): string =>
  Object.entries(words).reduce((now, [from, to]) => {
    expect(now).toContain(from)
    return now.replaceAll(from, to)
  }, text)

/** The flags of the compose file's servers. */
function flagsOf(namespace: string, keys: string): string[] {
  const { command } = parse(deployed('compose.yaml'))['x-gateway'] as { command: readonly string[] }
  const here: Readonly<Record<string, string>> = {
    '--host': '127.0.0.1',
    '--engine': nats!.url,
    '--keys': keys,
    '--trusted-proxy': '127.0.0.1/32',
    '--host-name': '127.0.0.1',
  }
  const [serve, ...flags] = command
  expect(serve).toBe('serve')
  const words = flags.map((flag) => flag.split('=')[0]!)
  expect(words).toEqual(expect.arrayContaining(Object.keys(here)))
  const given = flags.map((flag, i) => (words[i]! in here ? `${words[i]}=${here[words[i]!]}` : flag))
  return [...given, '--nats-namespace', namespace]
}

interface Before {
  readonly port: number
  readonly gateways: readonly number[]
  readonly cert: string
  readonly key: string
}

const PROXIES: Readonly<Record<string, (before: Before) => Promise<unknown>>> = {
  nginx: ({ port, gateways: [one, two], cert, key }) => {
    const asMe = process.getuid?.() === 0 ? 'user root;' : ''
    const temp = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((name) => `${name}_temp_path ${name};`)
    const config = changed(deployed('nginx.conf'), {
      'gateway1:7070': `127.0.0.1:${one}`,
      'gateway2:7070': `127.0.0.1:${two}`,
      'listen 443': `listen 127.0.0.1:${port}`,
      '/cert.pem': cert,
      '/key.pem': key,
      'http {': `http { ${temp.join(' ')}`,
    })
    const around = `${asMe} daemon off; master_process off; pid nginx.pid; error_log error.log crit;\n${config}`
    return startProgram('nginx', 'nginx.conf', around, (dir, file) => ['-c', file, '-p', `${dir}/`], port)
  },
  caddy: ({ port, gateways: [one, two], cert, key }) => {
    const config = changed(deployed('Caddyfile'), {
      'gateway1:7070': `127.0.0.1:${one}`,
      'gateway2:7070': `127.0.0.1:${two}`,
      'tidemark.example {': `https://127.0.0.1:${port} {\ntls ${cert} ${key}\nbind 127.0.0.1`,
    })
    const around = `{\nadmin off\nauto_https off\n}\n${config}`
    return startProgram(
      'caddy',
      'Caddyfile',
      around,
      (_, file) => ['run', '--adapter', 'caddyfile', '--config', file],
      port,
    )
  },
}

/** Before servers that are restarted: `DEPLOY_PROXY=caddy npm test -- deploy.test` takes the other one. */
const ROLLING = process.env.DEPLOY_PROXY ?? 'nginx'

/** Two servers and a proxy before them. */
async function deploy(name: string) {
  // A program that can not be had says so before anything is started.
  await debian(name, [name])
  const dir = tempDir()
  const keys = join(dir, 'keys.json')
  const made = await run(['keys', 'create', 'admin', '--keys', keys])
  expect(made).toMatchObject({ code: 0 })
  const { cert, key } = makeCertificate(dir)
  const flags = flagsOf(name, keys)
  const gateways: Serving[] = await Promise.all(range(1, 2).map(() => serving(flags, tempDir())))
  const ports = gateways.map(({ url }) => Number(new URL(url).port))
  const port = await freePort()
  await PROXIES[name]!({ port, gateways: ports, cert, key })
  return { url: `https://127.0.0.1:${port}`, token: made.out.trim(), flags, gateways, ports }
}

describe.skipIf(!nats)('what is deployed', () => {
  // The certificate is the test's own, and this process has believed others since it began.
  beforeEach(() => void vi.stubEnv('NODE_TLS_REJECT_UNAUTHORIZED', '0'))
  afterEach(() => void vi.unstubAllEnvs())

  test.each(Object.keys(PROXIES))('%s holds no stream back', async (name) => {
    const { url, token } = await deploy(name)
    await expectNoHolding(url, token)
  })

  test(`Two servers behind ${ROLLING} that are restarted in turn, and killed: real clients miss nothing and get nothing twice`, {
    timeout: 240_000,
  }, async () => {
    const { url, token, flags, gateways, ports } = await deploy(ROLLING)
    const readers = ['a', 'b'].map((client, i) => connect(url, { client, token, subprotocol: i ? 'msgpack' : 'json' }))
    const writer = connect(url, { token })
    for (const client of [...readers, writer]) onTestFinished(() => client.close().catch(() => undefined))
    const got = readers.map(() => new Map(CHANNELS.map((channel) => [channel, [] as unknown[]])))
    const wrong: unknown[] = []
    for (const [i, reader] of readers.entries())
      for (const channel of CHANNELS)
        void reader
          .channel(channel)
          .follow({ cursor: true }, ({ data }) => void got[i]!.get(channel)!.push(data))
          .catch((error: unknown) => wrong.push(error))
    let [isOver, longest] = [false, 0]
    const sent = new Map(CHANNELS.map((channel) => [channel, 0]))
    const append = async (channel: string): Promise<void> => {
      for (let n = 1; !isOver; n++) {
        const started = performance.now()
        expect(await writer.channel(channel).append({ data: n })).toMatchObject({ first: n, durability: 'fsync' })
        longest = Math.max(longest, performance.now() - started)
        sent.set(channel, n)
      }
    }
    const appending = Promise.all(CHANNELS.map(append))
    appending.catch(() => undefined)
    const goesOn = async (): Promise<void> => {
      const before = new Map(sent)
      const more = () => CHANNELS.every((channel) => sent.get(channel)! >= before.get(channel)! + BETWEEN)
      await Promise.race([vi.waitFor(() => expect(more()).toBe(true), { timeout: 60_000 }), appending])
    }
    await goesOn()
    const ends = [
      [0, 'SIGTERM'],
      [1, 'SIGTERM'],
      [0, 'SIGKILL'],
    ] as const
    for (const [i, signal] of ends) {
      const code = await gateways[i]!.kill(signal)
      if (signal === 'SIGTERM') expect(code).toBe(0)
      await goesOn()
      gateways[i] = await serving(flags, tempDir(), ports[i])
      await goesOn()
    }
    isOver = true
    await appending
    const all = new Map(CHANNELS.map((channel) => [channel, range(1, sent.get(channel)!)]))
    for (const mine of got) await vi.waitFor(() => expect(mine).toEqual(all), { timeout: 20_000 })
    expect(wrong).toEqual([])
    for (const reader of readers) await reader.close()
    // What they had handled is what they go on from.
    const headers = { authorization: `Bearer ${token}` }
    const answer = await fetch(`${url}/v1/cursors/a`, { headers })
    const { cursors } = (await answer.json()) as { cursors: { channel: string; seq: number }[] }
    expect(new Map(cursors.map(({ channel, seq }) => [channel, seq]))).toEqual(sent)
    const events = [...sent.values()].reduce((a, b) => a + b)
    console.log(`${ROLLING}: 2 stops, 1 kill, ${events} appends, 0 lost, 0 twice; longest ${Math.round(longest)} ms`)
  })
})

/** A stream of server-sent events gives each event while the answer goes on. */
async function expectNoHolding(url: string, token: string): Promise<void> {
  const events = `${url}/v1/channels/streamed/events`
  const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json' }
  const append = (data: unknown) => fetch(events, { method: 'POST', headers, body: JSON.stringify({ data }) })
  expect((await append('first')).status).toBe(201)
  const gone = new AbortController()
  onTestFinished(() => gone.abort())
  const stream = await fetch(events, { headers: { ...headers, accept: 'text/event-stream' }, signal: gone.signal })
  let text = ''
  const reading = (async () => {
    for await (const chunk of stream.body!.pipeThrough(new TextDecoderStream())) text += chunk
  })()
  // Cut in the end.
  reading.catch(() => undefined)
  for (const data of ['second', 'third']) {
    expect((await append(data)).status).toBe(201)
    await vi.waitFor(() => expect(text).toContain(`"${data}"`), { timeout: 10_000 })
  }
}
