/**
 * A process that opens a log, reads every channel as far as it goes and closes it, for damage over which LevelDB ends
 * its process.
 *
 *   node reader.js DIR
 */
import { toTidemarkError } from '../../src/errors.ts'
import { openLog } from '../../src/log/open.ts'

const log = await openLog({ dir: process.argv[2]! })
for await (const { channel, trimmed, head } of log.channels(''))
  for (let after = trimmed; after < head; )
    try {
      after = (await log.read(channel, { after }, { events: 1_000, bytes: 1024 * 1024 })).last
    } catch (error) {
      const { code, details } = toTidemarkError(error)
      console.log(JSON.stringify({ channel, code, ...details }))
      after = code === 'data-loss' ? Number(details.upTo) : head
    }
await log.close()
