/** A progress bar for long work: drawn on a terminal, a plain line now and then elsewhere. */
import cliProgress from 'cli-progress'
import { printable, type Terminal } from './terminal.ts'

/** Plain lines come this often, ms. */
const LINE_EVERY_MS = 5_000

export interface Bar {
  /** So many are done, and what is being done. */
  at(done: number, what: string): void
  end(): void
}

/** @param work what is done, in a word @param total how many there are to do, about @param unit what is counted */
export function startBar({ screen }: Pick<Terminal, 'screen'>, work: string, total: number, unit: string): Bar {
  if (!screen) return { at: () => {}, end: () => {} }
  const bar = new cliProgress.SingleBar({
    stream: screen,
    format: `${work} [{bar}] {percentage}% | {value}/{total} ${unit} | {eta_formatted} left | {what}`,
    barCompleteChar: '#',
    barIncompleteChar: '.',
    hideCursor: true,
    clearOnComplete: true,
    // While nothing tells how long it takes, the library has a word in place of seconds.
    formatTime: (seconds, options, step) =>
      Number.isFinite(seconds) ? cliProgress.Format.TimeFormat(seconds, options, step) : '?',
    noTTYOutput: true,
    notTTYSchedule: LINE_EVERY_MS,
    stopOnComplete: false,
  })
  bar.start(Math.max(total, 1), 0, { what: '' })
  let most = Math.max(total, 1)
  return {
    at(done, what) {
      // More has come meanwhile than was counted.
      most = Math.max(most, done)
      bar.setTotal(most)
      bar.update(done, { what: printable(what) })
    },
    end: () => bar.stop(),
  }
}
