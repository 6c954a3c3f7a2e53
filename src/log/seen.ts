/** A log as one reader may see it: what is addressed to others is withheld, positions move on past it. */
import { setImmediate as nextTurn } from 'node:timers/promises'
import { crc32 } from 'node:zlib'
import { blockFor, isAddressed, type Reader } from '../audience.ts'
import type { Log, Page, ReadLimits } from './log.ts'

/** What following and reading need of a log. */
export type Source = Pick<Log, 'read' | 'recent' | 'changed' | 'info' | 'cursor'>

/** Most events that are looked at for one page, however few of them are for the reader. */
const LOOKED_MAX = 4_096
/**
 * Addressed blocks that are looked at for all readers in one turn of the event loop, bytes, beside one more page. What is
 * withheld takes no room in any answer or socket: nothing else would ever make its reader wait.
 */
export const TURN_BYTES = 1024 * 1024

/**
 * @param reader who reads, asked for each page: what it may see changes with its token. Undefined: everything, also
 * whom an event is for.
 */
export function seenBy(log: Source, reader: () => Reader | undefined): Source {
  const limited = ({ events, bytes }: ReadLimits): ReadLimits => ({ events: Math.min(events, LOOKED_MAX), bytes })
  return {
    async read(channel, from, limits) {
      const page = await log.read(channel, from, limited(limits))
      while (isMuch()) await nextTurn()
      return pageFor(reader(), page)
    },
    recent(channel, from, limits) {
      if (isMuch()) return undefined
      const page = log.recent(channel, from, limited(limits))
      return page && pageFor(reader(), page)
    },
    changed: (channel, from, signal) => log.changed(channel, from, signal),
    info: (channel) => log.info(channel),
    cursor: (client, channel) => log.cursor(client, channel),
  }
}

/** Bytes that were looked at in this turn. */
let looked = 0

const isMuch = (): boolean => looked >= TURN_BYTES

function look(bytes: number): void {
  if (looked === 0)
    setImmediate(() => {
      looked = 0
    })
  looked += bytes
}

/** The page itself, with the forms that it shares, where nothing in it is addressed. */
function pageFor(reader: Reader | undefined, page: Page): Page {
  if (reader === undefined) return page
  if (!page.blocks.some(isAddressed)) return page
  for (const block of page.blocks) if (isAddressed(block)) look(block.length)
  return page.with({ blocks: page.blocks.map((block) => blockFor(reader, page.channel, block, crc32)) })
}
