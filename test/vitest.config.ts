import { defineConfig } from 'vitest/config'

/** Tiers run one after another (two cores; each test starts real servers), files of a tier too where they load the machine. */
export default defineConfig({
  test: {
    root: new URL('..', import.meta.url).pathname,
    include: ['test/**/*.test.ts'],
    reporters: ['default', new URL('./closing-line.ts', import.meta.url).pathname],
    globalSetup: [new URL('./setup.ts', import.meta.url).pathname],
    testTimeout: 30_000,
    hookTimeout: 30_000,
    maxWorkers: 2,
    pool: 'forks',
  },
})
