import { defineConfig } from 'vitest/config'
import { LongestFirst } from './order.ts'

/** All tests. A part of the house is run alone by its path: `npm test -- test/log/`. */
export default defineConfig({
  test: {
    root: new URL('..', import.meta.url).pathname,
    include: ['test/**/*.test.ts'],
    reporters: ['default', new URL('./closing-line.ts', import.meta.url).pathname],
    globalSetup: [new URL('./setup.ts', import.meta.url).pathname],
    sequence: { sequencer: LongestFirst },
    testTimeout: 30_000,
    hookTimeout: 30_000,
    // For two cores: most files start servers or other processes of their own, and wait for them.
    maxWorkers: 3,
    pool: 'forks',
  },
})
