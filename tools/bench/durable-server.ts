/**
 * The reference server of Durable Streams on a directory, without compression.
 *
 *   node durable-server.js --modules DIR --port P --dir DIR
 */
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'

/** What is used of the package. */
interface DurableStreams {
  readonly DurableStreamTestServer: new (options: object) => { start(): Promise<unknown>; stop(): Promise<unknown> }
}

const { values } = parseArgs({
  options: { modules: { type: 'string' }, port: { type: 'string' }, dir: { type: 'string' } },
})
const main = join(values.modules!, 'node_modules', '@durable-streams', 'server', 'dist', 'index.js')
const { DurableStreamTestServer } = (await import(pathToFileURL(main).href)) as DurableStreams
const options = { port: Number(values.port), host: '127.0.0.1', dataDir: values.dir, compression: false }
const server = new DurableStreamTestServer(options)
await server.start()
process.once('SIGTERM', () => void server.stop().then(() => process.exit(0)))
