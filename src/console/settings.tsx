/** What the server was told, where that came from, and its limits. */
import { useSignal } from '@preact/signals'
import type { SettingJson } from '../wire.ts'
import { ask, useEvery, wordsOf } from './ask.ts'
import { bytes, count, duration, visible } from './text.ts'

const LOOK_MS = 60_000

interface SettingsJson {
  readonly server: string
  readonly url: string
  readonly settings: readonly SettingJson[]
  readonly limits: Readonly<Record<string, number>>
}

/** `bytesOfABlock` → `bytes of a block`. */
const spaced = (name: string): string => name.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`)

export function Settings() {
  const found = useSignal<SettingsJson | undefined>(undefined)
  const wrong = useSignal<string | undefined>(undefined)
  useEvery(
    LOOK_MS,
    async (signal) => {
      try {
        found.value = await ask<SettingsJson>('admin/settings', { signal })
        wrong.value = undefined
      } catch (error) {
        if (!signal.aborted) wrong.value = wordsOf(error)
      }
    },
    [],
  )
  const { server, url, settings = [], limits = {} } = found.value ?? {}
  return (
    <main>
      <div class="bar">
        <h1>Settings</h1>
        <span class="quiet">{server === undefined ? '…' : `${server} at ${url}`}</span>
      </div>
      {wrong.value !== undefined && <p class="warn">{wrong.value}</p>}
      <div class="scrolled">
        <table>
          <thead>
            <tr>
              <th scope="col">Setting</th>
              <th scope="col">Value</th>
              <th scope="col">From</th>
            </tr>
          </thead>
          <tbody>
            {settings.map(({ name, value, from }) => (
              <tr key={name} class={from === 'default' ? 'quiet' : undefined}>
                <td>{name}</td>
                <td>
                  <bdi>{value === '' ? '–' : visible(value)}</bdi>
                </td>
                <td>{visible(from)}</td>
              </tr>
            ))}
          </tbody>
        </table>
        <h2>Limits</h2>
        <table class="limits">
          <tbody>
            {Object.entries(limits).map(([name, value]) => (
              <tr key={name}>
                <th scope="row">{spaced(name.replace(/^ms/, 'time'))}</th>
                <td class="number">
                  {name.startsWith('bytes') ? bytes(value) : name.startsWith('ms') ? duration(value) : count(value)}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </main>
  )
}
