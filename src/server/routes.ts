/** All calls by their addresses. */
import { addAdmin } from './admin.ts'
import type { App } from './app.ts'
import { addChannels } from './channels.ts'
import { addCursors } from './cursors.ts'
import type { Doors } from './doors.ts'
import { addFigures, type Watched } from './figures.ts'
import { addHotCalls } from './hot.ts'
import { addMultiAppend } from './multi.ts'
import { addPages } from './pages.ts'
import { addPoll } from './poll.ts'
import { addVerify } from './verify.ts'

export interface RoutesOptions {
  readonly watched: Watched
  /** What `/client.js` gives out. */
  readonly clientFile: string
}

export function addRoutes(app: App, doors: Doors, { watched, clientFile }: RoutesOptions): void {
  addHotCalls(app, doors)
  addMultiAppend(app, doors)
  addPoll(app, doors)
  addCursors(app, doors)
  addChannels(app, doors)
  addAdmin(app, doors, watched)
  addFigures(app, doors, watched)
  addVerify(app, doors)
  addPages(app, clientFile)
}
