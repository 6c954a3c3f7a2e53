/** The system's Chromium, as every test starts it. */
import { type Browser, chromium } from 'playwright-core'
import { find } from './machine.ts'

/** Undefined where there is none: its tests are then skipped, and say so. */
export const CHROMIUM: string | undefined = find('chromium')

/** A browser of its own that asks nobody but the server under test. @param more arguments */
export const launch = (...more: string[]): Promise<Browser> =>
  chromium.launch({
    executablePath: CHROMIUM!,
    args: ['--no-sandbox', '--disable-quic', '--disable-background-networking', '--disable-gpu', ...more],
  })
