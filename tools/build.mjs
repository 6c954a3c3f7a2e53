// Builds dist/: tsc for Node, vite for the one file that browsers load. Runs on `npm ci` (prepare), before tests and by hand.
// Without the development packages (`npm ci --omit=dev`) it keeps the dist/ that is there, as in a published package.
import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'

const require = createRequire(import.meta.url)

function packageDir(name) {
  try {
    return dirname(require.resolve(`${name}/package.json`))
  } catch {
    return undefined
  }
}

const typescript = packageDir('typescript')
if (!typescript) {
  console.error(
    existsSync('dist')
      ? 'tidemark: keeping dist/ as it is'
      : 'tidemark: no compiler here and no dist/: run npm ci with development packages',
  )
} else {
  execFileSync(process.execPath, [join(typescript, 'bin', 'tsc'), '-p', 'tsconfig.json'], { stdio: 'inherit' })
  if (existsSync('src/client/browser.ts')) {
    const { build } = await import('vite')
    await build({
      configFile: false,
      logLevel: 'warn',
      build: {
        outDir: 'dist',
        emptyOutDir: false,
        lib: { entry: 'src/client/browser.ts', formats: ['es'], fileName: () => 'client.js' },
        // One file, the msgpack decoder in it: the server gives out /client.js and nothing beside it.
        rolldownOptions: { output: { codeSplitting: false, minify: true } },
      },
    })
  }
}
