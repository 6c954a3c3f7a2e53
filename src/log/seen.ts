/** A log as one reader may see it: what is addressed to others is withheld, positions move on past it. */
import { crc32 } from 'node:zlib'
import { blockFor, type Reader } from '../audience.ts'
import type { Log, Page, ReadLimits } from './log.ts'

/** What following and reading need of a log. */
export type Source = Pick<Log, 'read' | 'recent' | 'changed' | 'info' | 'cursor'>

/** Most events that are looked at for one page, however few of them are for the reader. */
const LOOKED_MAX = 4_096

/**
 * @param reader who reads, asked for each page: what it may see changes with its token. Undefined: everything, also
 * whom an event is for.
 */
export function seenBy(log: Source, reader: () => Reader | undefined): Source {
  const limited = ({ events, bytes }: ReadLimits): ReadLimits => ({ events: Math.min(events, LOOKED_MAX), bytes })
  return {
    async read(channel, from, limits) {
      const page = await log.read(channel, from, limited(limits))
      return pageFor(reader(), page)
    },
    recent(channel, from, limits) {
      const page = log.recent(channel, from, limited(limits))
      return page && pageFor(reader(), page)
    },
    changed: (channel, from, signal) => log.changed(channel, from, signal),
    info: (channel) => log.info(channel),
    cursor: (client, channel) => log.cursor(client, channel),
  }
}

/** The page itself, with the forms that it shares, where nothing in it is addressed. */
function pageFor(reader: Reader | undefined, page: Page): Page {
  if (reader === undefined) return page
  const blocks = page.blocks.map((block) => blockFor(reader, page.channel, block, crc32))
  return blocks.every((block, i) => block === page.blocks[i]) ? page : page.with({ blocks })
}
