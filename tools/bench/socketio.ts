/** Socket.IO: a server that emits to a room what is posted to it. Nothing is stored. */
import { Child } from './child.ts'
import { npm } from './packages.ts'
import type { Peer } from './peer.ts'
import { compiled } from './programs.ts'
import { maskedFrame, postFile, upgradeTo } from './requests.ts'

const PACKAGE = { 'socket.io': '4.8.4' }

export async function socketIoPeers(): Promise<readonly Peer[]> {
  const modules = await npm(PACKAGE)
  return [
    {
      name: `Socket.IO ${PACKAGE['socket.io']}`,
      durability: 'none (memory)',
      workloads: 'W2 W3 W5',
      isNode: true,
      start: async (_dir, node = []) => {
        const [program, script] = compiled('tools/bench/socketio-server.js')
        const child = Child.start('Socket.IO', [program!, ...node, script!, '--modules', modules])
        return { child, ...(await child.json<{ port: number }>('port')) }
      },
      sending: (size) => ({ protocol: 'http', requests: postFile('/', size, (data) => data.join('\n')) }),
      // A packet of engine.io (4) that connects (0) to the main namespace.
      receiving: () => ({
        mode: 'ws',
        opening: Buffer.concat([upgradeTo('/socket.io/?EIO=4&transport=websocket'), maskedFrame('40')]),
        ready: '40{',
      }),
    },
  ]
}
