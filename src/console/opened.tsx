/** One event whole, beside the list that it was opened from. */
import type { ChannelEvent } from '../client/subscription.ts'
import { Json } from './json.tsx'
import { bytes, count, visible } from './text.ts'

export function Opened({ event, onClose }: { event: ChannelEvent; onClose: () => void }) {
  const { seq, time, type, key, id, contentType, data, dataBase64, tombstone, to } = event
  const fact = (name: string, value: string | undefined) =>
    value !== undefined && (
      <>
        <dt>{name}</dt>
        <dd>
          <bdi>{visible(value)}</bdi>
        </dd>
      </>
    )
  return (
    <aside class="opened" aria-label={`Event ${seq}`}>
      <div class="bar">
        <h2>Event {count(seq)}</h2>
        <button type="button" onClick={onClose}>
          Close
        </button>
      </div>
      <dl>
        {fact('Time', time)}
        {fact('Type', type)}
        {fact('Key', key)}
        {fact('Id', id)}
        {fact('Content type', contentType)}
        {fact('To', to && JSON.stringify(to))}
      </dl>
      {tombstone && <p class="quiet">A tombstone: it says that the key is gone.</p>}
      {dataBase64 !== undefined && (
        <>
          <p class="quiet">{`${bytes((dataBase64.length * 3) / 4)}, as base64`}</p>
          <Json value={dataBase64} />
        </>
      )}
      {data !== undefined && (
        <div class="json">
          {/* Another event is another tree. */}
          <Json key={`${event.channel} ${seq}`} value={data} />
        </div>
      )}
    </aside>
  )
}
