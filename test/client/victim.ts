/**
 * A server in a process of its own, to be killed: `node victim.js DIR [NATS]`, NATS being options as JSON; prints its
 * port. SIGTERM stops it in order.
 */
import { openLog } from '../../src/log/open.ts'
import { startServer } from '../../src/server/server.ts'

const [dir, nats] = process.argv.slice(2)
const log = await openLog({ dir: dir!, ...(nats !== undefined && { nats: JSON.parse(nats) }) })
const server = await startServer(log, { port: 0, retryWindow: 50 })
process.stdout.write(`${server.port}\n`)

process.once('SIGTERM', async () => {
  await server.close()
  await log.close()
})
