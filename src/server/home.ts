/** Where this package lies, and what stands beside its code: sources as they are, compiled, or bundled. */
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** The directory of the package. */
export const HOME: string = homeOf(dirname(fileURLToPath(import.meta.url)))

function homeOf(dir: string): string {
  return existsSync(join(dir, 'package.json')) ? dir : homeOf(dirname(dir))
}

/** The client that browsers load, as built. */
export const CLIENT_FILE: string = join(HOME, 'dist', 'client.js')

/** The console, as built. */
export const CONSOLE_DIR: string = join(HOME, 'dist', 'console')

/** Version of this package. */
export function version(): string {
  return (JSON.parse(readFileSync(join(HOME, 'package.json'), 'utf8')) as { version: string }).version
}
