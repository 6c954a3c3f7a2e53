/** A page of one channel, where there can be one of its name. */
import type { ComponentType } from 'preact'
import { useMemo } from 'preact/hooks'
import { checkChannel } from '../event.ts'
import { wordsOf } from './ask.ts'
import { visible } from './text.ts'

/** Another name is another page, that begins anew. */
export function Named({ name, page: Page }: { name: string; page: ComponentType<{ name: string }> }) {
  const wrong = useMemo(() => refusalOf(name), [name])
  if (wrong !== undefined)
    return (
      <main>
        <h1>{visible(name)}</h1>
        <p class="warn">{wrong}</p>
      </main>
    )
  return <Page key={name} name={name} />
}

/** Why there can be no channel of this name. */
function refusalOf(name: string): string | undefined {
  try {
    checkChannel(name)
    return undefined
  } catch (error) {
    return wordsOf(error)
  }
}
