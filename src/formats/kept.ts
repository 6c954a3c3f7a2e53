/** Events that come in blocks, from another log or an archive: each is as a door would have taken it. */
import { walkBlock } from '../block.ts'
import { TidemarkError } from '../errors.ts'
import {
  checkAudience,
  checkContentType,
  checkId,
  checkJoined,
  checkKey,
  checkType,
  ID_BYTES_MAX,
  isPlain,
  isSystemChannel,
  isType,
  KEY_BYTES_MAX,
  SEQ_MAX,
} from '../event.ts'
import { type Parts, textAt } from '../walk.ts'
import { jsonLine, refuse } from './json.ts'

/** Types of the server's own events in the system's channels begin so. */
const OWN = /^tidemark\./

/** @throws bad-request { channel, seq } of the first event that is none; data-loss where the bytes are no block */
export function checkEvents(channel: string, block: Uint8Array): void {
  walkBlock(block, 0, SEQ_MAX, (seq, _, parts) => {
    try {
      check(channel, block, parts)
    } catch (error) {
      if (!(error instanceof TidemarkError)) throw error
      throw new TidemarkError(
        error.code,
        `Event ${seq}: ${error.message}`,
        { ...error.details, channel, seq },
        { cause: error },
      )
    }
    return true
  })
}

function check(channel: string, block: Uint8Array, parts: Parts): void {
  const { type, typeEnd, key, keyEnd, id, idEnd, contentType, contentTypeEnd, data, dataEnd, to } = parts
  if (type >= 0 && !isType(block, type, typeEnd)) {
    const text = textAt(block, type, typeEnd)!
    checkType(isSystemChannel(channel) ? text.replace(OWN, '') : text)
  }
  if (key >= 0 && !isPlain(block, key, keyEnd, KEY_BYTES_MAX)) checkKey(textAt(block, key, keyEnd))
  if (id >= 0 && !isPlain(block, id, idEnd, ID_BYTES_MAX)) checkId(textAt(block, id, idEnd))
  const written = textAt(block, contentType, contentTypeEnd)
  if (written !== null && checkContentType(written) !== written)
    refuse('contentType is not as it is kept', { field: 'contentType' })
  if (data >= 0 && written === null) {
    const json = block.subarray(data, dataEnd)
    if (jsonLine(json) !== json) refuse('data is JSON on one line', { field: 'data' })
  }
  if (to) checkAudience(to)
  checkJoined(type >= 0, key >= 0, data >= 0, to !== null)
}
