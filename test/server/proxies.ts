/**
 * nginx and haproxy before a server, as people run them: connections to it are kept and shared by all callers, and one
 * path is forbidden by the proxy alone. Debian's packages, unpacked beside those of the bench; no root, loopback only.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'
import { debian, UNPACKED_ENV, versionOf } from '../../tools/bench/packages.ts'
import { freePort } from '../../tools/bench/peer.ts'
import { tempDir } from '../parts.ts'

/** A path with this in it is refused by the proxy: the server sees it only when it was smuggled past. */
export const FORBIDDEN = 'smuggled'

export interface Proxy {
  readonly port: number
  readonly version: string
}

interface Kind {
  readonly versionFlag: string
  config(port: number, server: number): string
  args(dir: string, file: string): readonly string[]
}

/** Whoever says nothing for half a second is sent away, so that every attack ends. */
export const PROXIES: Readonly<Record<'nginx' | 'haproxy', Kind>> = {
  nginx: {
    versionFlag: '-v',
    config: (port, server) => `
${process.getuid?.() === 0 ? 'user root;' : ''}
daemon off; master_process off; pid nginx.pid; error_log error.log crit;
events { worker_connections 512; }
http {
  access_log off; client_header_timeout 500ms; client_body_timeout 500ms; keepalive_timeout 500ms; proxy_read_timeout 5s;
  client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
  map $http_upgrade $connection_upgrade { default upgrade; '' ''; }
  upstream tidemark { server 127.0.0.1:${server}; keepalive 2; }
  server {
    listen 127.0.0.1:${port};
    proxy_http_version 1.1; proxy_request_buffering off; proxy_buffering off;
    proxy_set_header Host $http_host; proxy_set_header Connection ""; proxy_set_header Expect $http_expect;
    location ~ ${FORBIDDEN} { return 403; }
    location / { proxy_pass http://tidemark; }
    location = /v1/stream {
      proxy_pass http://tidemark; proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade; proxy_set_header Host $http_host;
    }
  }
}
`,
    args: (dir, file) => ['-c', file, '-p', `${dir}/`],
  },
  haproxy: {
    versionFlag: '-v',
    config: (port, server) => `
defaults
  mode http
  timeout connect 2s
  timeout client 500ms
  timeout server 5s
  timeout http-request 500ms
  timeout http-keep-alive 500ms
  timeout tunnel 500ms
  option http-keep-alive
frontend in
  bind 127.0.0.1:${port}
  http-request deny if { path -m sub ${FORBIDDEN} }
  default_backend out
backend out
  http-reuse always
  server tidemark 127.0.0.1:${server}
`,
    args: (_, file) => ['-f', file, '-db'],
  },
}

/** Before the server at this port, until the test ends. @throws when it can not be had or does not start */
export async function startProxy(name: keyof typeof PROXIES, server: number): Promise<Proxy> {
  const kind = PROXIES[name]
  const port = await freePort()
  const program = await startProgram(name, `${name}.conf`, kind.config(port, server), kind.args, port)
  return { port, version: await versionOf(program, kind.versionFlag) }
}

/**
 * A program of Debian's in a directory of its own with this configuration, until the test ends; returns where it is when
 * it takes connections. @throws when it can not be had or does not start
 */
export async function startProgram(
  name: string,
  configName: string,
  config: string,
  args: (dir: string, file: string) => readonly string[],
  port: number,
): Promise<string> {
  const program = await debian(name, [name])
  const dir = tempDir()
  const file = join(dir, configName)
  writeFileSync(file, config)
  const env = { ...UNPACKED_ENV, HOME: dir, XDG_DATA_HOME: dir, XDG_CONFIG_HOME: dir }
  const child = spawn(program, args(dir, file), { cwd: dir, env, stdio: ['ignore', 'pipe', 'pipe'] })
  let said = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (text: Buffer) => (said += text))
  const ended = once(child, 'close')
  onTestFinished(async () => {
    child.kill('SIGKILL')
    await ended
  })
  for (;;) {
    if (child.exitCode !== null) throw new Error(`${name} ended with ${child.exitCode}: ${said}`)
    const socket = connect(port, '127.0.0.1')
    const isThere = await new Promise((resolve) => {
      socket.once('connect', () => resolve(true)).once('error', () => resolve(false))
    })
    socket.destroy()
    if (isThere) return program
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}
