/** Nchan, a module of nginx: events are kept in memory; subscribers over WebSocket, or by long polls. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Child } from './child.ts'
import { debian, UNPACKED_ENV, unpacked } from './packages.ts'
import { freePort, type Peer, question } from './peer.ts'
import { postFile, upgradeTo } from './requests.ts'
import type { Target } from './target.ts'

const CHANNEL = 'bench'
const MODULE = 'usr/lib/nginx/modules/ngx_nchan_module.so'
/** Nchan asks for nginx's own state directory, whatever is configured; a path as long within ours does as well. */
const STATE_DIR = '/var/lib/nginx/'
const OUR_STATE_DIR = './'.padEnd(STATE_DIR.length, '/')

const PUBLISH_PATH = '/publish'
/** A client of long polls goes on from two headers of the last answer; the drain program fills them in. */
const LONG_POLL_PATH = '/poll'
const LONG_POLL = `GET ${LONG_POLL_PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nIf-Modified-Since: {modified}\r\nIf-None-Match: {etag}\r\n\r\n`

/** One process, as one worker would be, so that it can be measured and ended like any other. */
const config = (port: number, modulePath: string): string => `
load_module ${modulePath};
${process.getuid?.() === 0 ? 'user root;' : ''}
daemon off; master_process off; pid nginx.pid; error_log error.log crit; worker_rlimit_nofile 20000;
events { worker_connections 19000; }
http {
  access_log off; keepalive_requests 1000000000; keepalive_timeout 600s; client_body_buffer_size 128k;
  client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
  nchan_shared_memory_size 2048M;
  server {
    listen 127.0.0.1:${port} backlog=8192;
    nchan_channel_id ${CHANNEL}; nchan_message_buffer_length 2000000; nchan_message_timeout 1h;
    nchan_subscriber_first_message oldest;
    location = ${PUBLISH_PATH} { nchan_publisher; }
    location = /socket { nchan_subscriber websocket; }
    location = ${LONG_POLL_PATH} { nchan_subscriber longpoll; }
    location = /ready { return 200; }
  }
}
`

export async function nchanPeers(): Promise<readonly Peer[]> {
  const program = await debian('nginx', ['nginx', 'libnginx-mod-nchan'], MODULE)
  const modulePath = unpacked(MODULE)
  const code = readFileSync(modulePath, 'latin1')
  if (code.includes(STATE_DIR)) writeFileSync(modulePath, code.replaceAll(STATE_DIR, OUR_STATE_DIR), 'latin1')
  const version = /\0(1\.\d+\.\d+)\0/.exec(code)?.[1] ?? 'of unknown version'

  const start = async (dir: string): Promise<Target> => {
    const port = await freePort()
    const file = join(dir, 'nginx.conf')
    writeFileSync(file, config(port, modulePath))
    const child = Child.start('nginx', [program, '-c', file, '-p', `${dir}/`], UNPACKED_ENV)
    await question(port, 'GET /ready HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n', /^HTTP\/1\.1 200/)
    return { child, port }
  }
  const common: Pick<Peer, 'durability' | 'start' | 'sending'> = {
    durability: 'none (memory)',
    start,
    sending: (size) =>
      size > 1 ? undefined : { protocol: 'http', requests: postFile(PUBLISH_PATH, 1, (data) => data.join()) },
  }
  return [
    {
      ...common,
      name: `Nchan ${version}`,
      workloads: 'W1 W2 W3 W5',
      receiving: () => ({ mode: 'ws', opening: upgradeTo('/socket') }),
    },
    {
      ...common,
      name: `Nchan ${version} long poll`,
      workloads: 'W7',
      receiving: () => ({ mode: 'longpoll', opening: Buffer.from(LONG_POLL) }),
    },
  ]
}
