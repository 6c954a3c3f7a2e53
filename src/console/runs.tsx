/** Work on histories in the background: how far a run is, and what one came to. */
import { shareOf } from '../units.ts'
import type { RunJson } from '../wire.ts'
import { age, bytes, count, duration } from './text.ts'

/** Of a run that came to its end: the fields that are told, of whichever work. */
interface Report {
  readonly events?: { readonly before: number; readonly after: number } | number
  readonly bytes?: { readonly before: number; readonly after: number } | number
  readonly blocks?: { readonly before: number; readonly after: number } | number
  readonly whole?: boolean
  readonly complete?: boolean
  readonly findings?: number
  readonly channels?: number
}

const WORKS: Readonly<Record<RunJson['work'], string>> = {
  compact: 'Compaction',
  erase: 'Erasing',
  verify: 'Verification',
}
export const workOf = ({ work, dryRun }: Pick<RunJson, 'work' | 'dryRun'>): string =>
  `${WORKS[work] ?? work}${dryRun ? ', a look' : ''}`

/** A phase, how far it is, and what was freed; of the same size however far it is. */
export function Progress({ run }: { run: RunJson }) {
  const { phase = 'reading', seq, head, freed, bytes: read } = run
  const share = shareOf(run)
  const label = `${workOf(run)}${run.channel === undefined ? '' : ` of ${run.channel}`}: ${phase}`
  return (
    <span class="progress">
      <progress max={1} value={share} aria-label={label} />
      <span class="phase">{phase}</span>
      <span class="share">{share === undefined ? '' : `${Math.floor(share * 100)} %`}</span>
      <span class="quiet">
        {head === undefined ? `${bytes(read ?? 0)} read` : `${count(seq ?? run.trimmed ?? 0)} of ${count(head)}`}
        {freed !== undefined && freed > 0 && `, ${bytes(freed)} ${run.dryRun ? 'to free' : 'freed'}`}
      </span>
    </span>
  )
}

/** What a run that is over came to. */
export function outcomeOf({ work, dryRun, report: found, failed, stopped, phase = 'reading' }: RunJson): string {
  if (stopped)
    return `stopped while ${phase}: ${dryRun ? 'it only looked' : 'what was done stays, another run goes on with it'}`
  if (failed) return `${failed.detail} (${failed.code})`
  if (found === undefined) return ''
  const report = found as Report
  const { events, bytes: size, blocks } = report
  if (work === 'verify') {
    const of = `${count(Number(report.channels))} channels, ${bytes(Number(size))}`
    return report.whole ? `whole: ${of}` : `${count(report.findings ?? 0)} findings in ${of}`
  }
  if (typeof events === 'number') return `erased ${count(events)} events`
  if (events === undefined || typeof size !== 'object') return ''
  const gone = `${count(events.before - events.after)} of ${count(events.before)} events, ${bytes(Math.max(0, size.before - size.after))} of ${bytes(size.before)}`
  const packed =
    typeof blocks === 'object' ? `, ${count(blocks.before - blocks.after)} of ${count(blocks.before)} blocks` : ''
  const more = report.complete === false ? '; trims came between, another run finds more' : ''
  return `${dryRun ? 'would free' : 'freed'} ${gone}${packed}${more}`
}

/** How long ago it ended, and how long it took. */
export function whenOf({ startedAt, finishedAt }: RunJson): string {
  if (startedAt === undefined) return ''
  if (finishedAt === undefined) return `for ${duration(Math.max(0, Date.now() - Date.parse(startedAt)))}`
  return `${age(finishedAt)}, took ${duration(Math.max(0, Date.parse(finishedAt) - Date.parse(startedAt)))}`
}
