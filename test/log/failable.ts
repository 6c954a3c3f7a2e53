/** A log whose LevelDB can be made to fail. */
import { Level } from 'level'
import { onTestFinished, vi } from 'vitest'
import { type LogOptions, openLog } from '../../src/log/open.ts'
import { tempDir } from '../parts.ts'
import type { Rows } from './stored.ts'

/** A log, the LevelDB in it, and ways to make its next write fail, or wait. */
export async function failable(options: Partial<LogOptions> = {}) {
  const open = vi.spyOn(Level.prototype, 'open')
  const log = await openLog({ dir: tempDir(), ...options })
  /** The one that is open: each opening makes another. */
  const newest = () => open.mock.contexts.at(-1) as unknown as Rows
  onTestFinished(async () => {
    vi.restoreAllMocks()
    await log.close()
  })
  const nextWrite = (write: (go: () => Promise<void>) => Promise<void>) => {
    const rows = newest()
    const batch = rows.batch.bind(rows)
    const made = vi.spyOn(Level.prototype, 'batch') as unknown as { mockImplementationOnce(make: () => unknown): void }
    made.mockImplementationOnce(() => {
      const real = batch()
      const go = real.write.bind(real, { sync: true } as never) as () => Promise<void>
      return Object.assign(real, { write: () => write(go) })
    })
  }
  const failNextWrite = () => nextWrite(() => Promise.reject(new Error('Input/output error')))
  return { log, rows: newest(), open, nextWrite, failNextWrite }
}
