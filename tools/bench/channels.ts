/** W1 over many channels: every request goes to another one, in turn. */
import type { Measure } from './figures.ts'
import { fillChannels, headsCount } from './fill.ts'
import { appendedOnly, appendMeasure, grouped, type Lab, type Server } from './lab.ts'
import { type Form, httpAppends, inTurn } from './requests.ts'

/** Rows so far, of all runs: each has channels of its own, also where rows share a server. */
let rows = 0

/** The rows of this form; `onOne` is the row over one channel, that they are compared with. */
export async function* appendsOverChannels(lab: Lab, form: Form, size: number, onOne: string): AsyncGenerator<Measure> {
  for (const channels of lab.scale.channels) {
    const name = `${onOne}, ${grouped(channels)} channels`
    if (!lab.wants(name)) continue
    const prefix = `many-${rows++}`
    const server = await lab.tidemark('bench')
    // Channels are made before: what is measured is appends to channels that are there.
    const made = await fillChannels(lab, server, prefix, channels, 1)
    const row = { name, subject: 'tidemark', durability: server.durability, limits: [onOne] } as const
    yield await appendsInTurn(lab, server, { prefix, channels, made }, { form, size }, row)
    await server.stop()
  }
}

/** Appends to channels that are there, to each in its turn; `made` is what they hold in all. */
export async function appendsInTurn(
  lab: Lab,
  server: Server,
  { prefix, channels, made }: { readonly prefix: string; readonly channels: number; readonly made: number },
  { form, size }: { readonly form: Form; readonly size: number },
  row: Parameters<typeof appendMeasure>[0],
): Promise<Measure> {
  const { producers: connections, seconds, warm } = lab.scale
  const requests = httpAppends(server.port, inTurn(prefix), form, size)
  const load = { port: server.port, connections, seconds, warm, protocol: 'http', requests, channels } as const
  const report = await lab.watched(server, row.name, () => lab.drive.load(server.child, load), appendedOnly)
  return appendMeasure(row, report, await headsCount(server, prefix, channels, made + report.total))
}
