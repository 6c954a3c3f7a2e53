import { defineConfig } from 'vitest/config'

/** One project for each part of the house, so that a part can be run alone: `npm test -- --project log`. */
const project = (name: string, ...include: string[]) => ({ extends: true as const, test: { name, include } })

export default defineConfig({
  test: {
    root: new URL('..', import.meta.url).pathname,
    reporters: ['default', new URL('./closing-line.ts', import.meta.url).pathname],
    globalSetup: [new URL('./setup.ts', import.meta.url).pathname],
    testTimeout: 30_000,
    hookTimeout: 30_000,
    // For two cores: most files start servers or other processes of their own, and wait for them.
    maxWorkers: 3,
    pool: 'forks',
    projects: [
      project('check', 'test/floors.test.ts', 'test/protocol.test.ts'),
      project('words', 'test/!(floors|protocol).test.ts', 'test/golden/*.test.ts'),
      project('access', 'test/access/*.test.ts'),
      project('log', 'test/log/*.test.ts'),
      project('crash', 'test/crash/*.test.ts'),
      project('doors', 'test/server/*.test.ts'),
      project('client', 'test/client/*.test.ts'),
      project('tools', 'test/tools/*.test.ts'),
      project('console', 'test/console/*.test.ts'),
    ],
  },
})
