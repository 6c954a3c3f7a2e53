import { readFileSync } from 'node:fs'

/** Version of this package, from beside the compiled program or the sources as they are. */
export function version(): string {
  const at = new URL(import.meta.url.endsWith('.ts') ? '../package.json' : '../../package.json', import.meta.url)
  return (JSON.parse(readFileSync(at, 'utf8')) as { version: string }).version
}
