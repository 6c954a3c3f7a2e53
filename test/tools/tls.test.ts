/** The program over TLS: its server, its own commands, and the exit code of what may not be served. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { makeCertificate } from '../certificate.ts'
import { tempDir } from '../parts.ts'
import { Program, run, serving } from './program.ts'

test('append and tail speak to a server with TLS and keys, once its certificate is believed', async () => {
  const data = tempDir()
  const { cert, key } = makeCertificate(data)
  const made = await run(['keys', 'create', 'admin', '--data', `${data}/log`])
  expect(made.code).toBe(0)
  const token = join(data, 'token')
  writeFileSync(token, /tm_adm_\S+/.exec(made.out)![0], { mode: 0o600 })
  const server = await serving(['--tls-cert', cert, '--tls-key', key], data)
  expect(server.url).toMatch(/^https:/)
  expect(server.err).not.toContain('NO KEYS')

  const to = ['--url', server.url, '--token-file', token]
  const env = { NODE_EXTRA_CA_CERTS: cert }
  const appended = await run(['append', 'orders', '--data', '{"n":1}', ...to], { env })
  expect([appended.code, appended.err]).toEqual([0, expect.any(String)])
  const tail = new Program(['tail', 'orders', '--after', '0', '--json', ...to], { env })
  await tail.until(() => tail.lines.some((line) => line.includes('"n":1')))
  await run(['append', 'orders', '--data', '{"n":2}', ...to], { env })
  await tail.until(() => tail.lines.some((line) => line.includes('"n":2')))
  expect(await tail.kill('SIGINT')).toBe(0)

  const disbelieving = await run(['append', 'orders', '--data', '{"n":3}', '--patience', '0s', ...to])
  expect(disbelieving.code).not.toBe(0)
  const secret = readFileSync(token, 'utf8')
  for (const text of [server.out, server.err, tail.out, tail.err, appended.out, appended.err, disbelieving.err])
    expect(text).not.toContain(secret)
})

test.each([
  [['--host', '0.0.0.0'], 'tidemark keys create admin'],
  [['--tls-cert', 'none.pem', '--tls-key', 'none.key'], 'none.pem can not be read'],
  [['--tls-cert', 'none.pem'], 'go together'],
  [['--trusted-proxy', 'everybody'], '--trusted-proxy takes'],
])('serve %j ends with 78 and says the way out, and makes no log', async (args, words) => {
  const data = tempDir()
  const { code, err } = await run(['serve', '--port', '0', '--data', `${data}/log`, ...args], { cwd: data })
  expect([code, err]).toEqual([78, expect.stringContaining(words)])
  expect(() => readFileSync(`${data}/log/CURRENT`)).toThrow('ENOENT')
})
