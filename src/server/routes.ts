/** All calls by their addresses. */
import type { Cookies } from '../doors/cookies.ts'
import type { Doors } from '../doors/doors.ts'
import type { Peers } from '../doors/peers.ts'
import { addAdmin } from './admin.ts'
import { type App, type AppOptions, makeApp } from './app.ts'
import { addArrivals } from './arrivals.ts'
import { addChannels } from './channels.ts'
import { addConsole } from './console.ts'
import { addCursors } from './cursors.ts'
import { addEvents } from './events.ts'
import { addFigures, type Watched } from './figures.ts'
import { CONSOLE_DIR } from './home.ts'
import { addKeeping } from './keeping.ts'
import { addMultiAppend } from './multi.ts'
import { addPages } from './pages.ts'
import { Runs } from './runs.ts'
import { addSession } from './sign-in.ts'
import { addUpkeep } from './upkeep.ts'
import { addVerify } from './verify.ts'

export interface RoutesOptions extends AppOptions {
  readonly watched: Watched
  /** Sessions of pages. */
  readonly cookies: Cookies
  readonly peers: Peers
  /** What `/client.js` gives out. */
  readonly clientFile: string
}

/** The router with every call, ready to be given requests. */
export async function makeRoutes(doors: Doors, options: RoutesOptions): Promise<App> {
  const app = await makeApp(options)
  addEvents(app, doors)
  addMultiAppend(app, doors)
  addCursors(app, doors)
  addChannels(app, doors)
  const runs = new Runs()
  addUpkeep(app, doors, runs)
  addAdmin(app, doors, options.watched, options.version)
  addFigures(app, doors, options.watched)
  addVerify(app, doors, runs)
  addKeeping(app, doors, runs)
  addArrivals(app, doors)
  addSession(app, doors, options.cookies, options.peers)
  addPages(app, options.clientFile)
  addConsole(app, CONSOLE_DIR, doors.settings.path)
  await app.ready()
  return app
}
