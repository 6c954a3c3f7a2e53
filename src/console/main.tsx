/** The console: a page per hash, over figures that are sampled as long as it is open. */
import { render } from 'preact'
import { useEffect } from 'preact/hooks'
import { isSignedIn, isStranger, signOut, trouble } from './ask.ts'
import { Channel } from './channel.tsx'
import { Channels } from './channels.tsx'
import { Connections } from './connections.tsx'
import { Cursors } from './cursors.tsx'
import { Dialogs } from './dialogs.tsx'
import { figures, watch } from './history.ts'
import { Keeping } from './keeping.tsx'
import { Kept } from './kept.tsx'
import { Overview } from './overview.tsx'
import { type Route, route } from './route.ts'
import { Settings } from './settings.tsx'
import { SignIn } from './sign-in.tsx'
import { visible } from './text.ts'

const PAGES = [
  ['', 'Overview'],
  ['channels', 'Channels'],
  ['cursors', 'Cursors'],
  ['keeping', 'Keeping'],
  ['connections', 'Connections'],
  ['settings', 'Settings'],
] as const

function Console() {
  const { page, name } = route.value
  const title = name === '' ? (PAGES.find(([each]) => each === page)?.[1] ?? 'Nothing here') : visible(name)
  useEffect(() => {
    document.title = `${title} – Tidemark`
  }, [title])
  if (isStranger.value) return <SignIn />
  return (
    <>
      <header>
        <a class="brand" href="#/">
          Tidemark
        </a>
        <nav aria-label="Pages">
          {PAGES.map(([each, text]) => (
            <a key={each} href={`#/${each}`} aria-current={each === page ? 'page' : undefined}>
              {text}
            </a>
          ))}
        </nav>
        <State />
        {isSignedIn() && (
          <button type="button" class="leave" onClick={signOut}>
            Sign out
          </button>
        )}
      </header>
      {trouble.value !== undefined && (
        <p class="trouble" role="alert">
          {trouble.value}. Trying again.
        </p>
      )}
      <Page route={route.value} />
      <Dialogs />
    </>
  )
}

function State() {
  const now = figures.value
  if (now === undefined) return null
  return (
    <a class="states" href="#/">
      <span class={`pill ${now.state === 'ok' ? 'good' : 'bad'}`}>{now.state}</span>
      <span class={`pill ${now.streamer === 'on' ? 'good' : 'off'}`}>streamer {now.streamer}</span>
    </a>
  )
}

function Page({ route: { page, name } }: { route: Route }) {
  switch (page) {
    case '':
      return <Overview />
    case 'channels':
      return name === '' ? <Channels /> : <Channel name={name} />
    case 'cursors':
      return <Cursors />
    case 'keeping':
      return name === '' ? <Keeping /> : <Kept name={name} />
    case 'connections':
      return <Connections />
    case 'settings':
      return <Settings />
    default:
      return (
        <main>
          <h1>Nothing here</h1>
          <p>
            <a href="#/">To the overview</a>
          </p>
        </main>
      )
  }
}

/** `/` goes to the search of the page. */
document.addEventListener('keydown', (event) => {
  const { key, target, ctrlKey, metaKey, altKey } = event
  const isTyping = target instanceof HTMLElement && target.matches('input, select, textarea, dialog *')
  if (key === '/' && !isTyping && !ctrlKey && !metaKey && !altKey) {
    document.querySelector<HTMLInputElement>('.search')?.focus()
    event.preventDefault()
  }
})

watch()
render(<Console />, document.getElementById('console')!)
