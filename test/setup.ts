import { execFileSync } from 'node:child_process'
import { natsProgram } from '../tools/bench/nats.ts'
import { provide } from './machine.ts'

/** Once before all tests: the machine's programs, NATS, and a build of what tests start as processes of their own. */
export default async function setup(): Promise<void> {
  provide()
  try {
    process.env.NATS_SERVER_BIN = await natsProgram()
  } catch (error) {
    console.warn(`NO NATS-SERVER HERE: the tests that need it are SKIPPED (${error})`)
    // No file of tests tries it anew.
    process.env.NATS_SERVER_BIN = 'nats-server, which could not be fetched'
  }
  execFileSync(process.execPath, ['tools/build.mjs', '--if-changed'], { stdio: ['ignore', 'inherit', 'inherit'] })
}
