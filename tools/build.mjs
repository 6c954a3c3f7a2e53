// Builds dist/: tsc for Node, and vite for what is loaded as few files: the program, of which every start loads all
// that it needs, the client for browsers, and the console. Runs on `npm ci` (prepare), before tests and by hand.
// Without the development packages (`npm ci --omit=dev`) it keeps the dist/ that is there, as in a published package.
// With --if-changed, as tests ask for it, it builds only when dist/ was made from something else than what is here.
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { chmodSync, existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'

// Whoever builds, a test too: otherwise pages would hold the paths of this machine and a slower JSX.
process.env.NODE_ENV = 'production'

const require = createRequire(import.meta.url)

/** A digest of all that dist/ is made from, kept there by the build that was made from it. */
const MADE_FROM = 'dist/made-from'
const SOURCES = ['package.json', 'package-lock.json', 'tsconfig.json', 'src', 'test', 'tools']

function digestOfSources() {
  const digest = createHash('sha256')
  const within = (path) => readdirSync(path, { recursive: true }).map((name) => join(path, name))
  const paths = SOURCES.flatMap((path) => (statSync(path).isDirectory() ? within(path) : [path]))
  // A link to nothing, or what went meanwhile, is no source.
  for (const path of paths.sort())
    if (statSync(path, { throwIfNoEntry: false })?.isFile())
      digest.update(`${path}\0`).update(readFileSync(path)).update('\0')
  return digest.digest('hex')
}

function packageDir(name) {
  try {
    return dirname(require.resolve(`${name}/package.json`))
  } catch {
    return undefined
  }
}

const common = { configFile: false, logLevel: 'warn' }

/** The engine's native part is found beside its package. */
const nativePart = {
  name: 'native-part',
  enforce: 'pre',
  resolveId: (id, importer = '') =>
    id === './binding' && importer.includes('/classic-level/')
      ? { id: 'classic-level/binding.js', external: true }
      : null,
}

/** The command line with its packages: a start from many small files takes twice as long. */
async function bundleProgram({ build }) {
  await build({
    ...common,
    plugins: [nativePart],
    // ws asks for these two and lives without.
    ssr: { noExternal: true, external: ['bufferutil', 'utf-8-validate'] },
    build: {
      ssr: 'dist/tools/tidemark.js',
      outDir: 'dist/bin',
      target: 'node20.20',
      // Stack traces in a server's log name its functions.
      minify: false,
    },
  })
  chmodSync('dist/bin/tidemark.js', 0o755)
}

/** client.js, and the parts that it loads (parts.ts), client-….js. */
async function bundleClient({ build }) {
  await build({
    ...common,
    build: {
      outDir: 'dist',
      emptyOutDir: false,
      lib: { entry: 'src/client/browser.ts', formats: ['es'], fileName: () => 'client.js' },
      rolldownOptions: {
        // What a part needs of the client is what everybody may import from it, and nothing else.
        preserveEntrySignatures: 'allow-extension',
        output: {
          // All that the parts share is in client.js, under its name.
          minifyInternalExports: false,
          codeSplitting: { groups: [{ name: 'client', test: /client.browser\.ts$/ }] },

          chunkFileNames: 'client-[name].js',
          minify: true,
          comments: false,
        },
      },
    },
  })
}

async function bundleConsole({ build }) {
  await build({
    ...common,
    root: 'src/console',
    // Wherever a proxy puts the page, its files lie beside it.
    base: './',
    build: {
      outDir: '../../dist/console',
      emptyOutDir: true,
      assetsDir: '',
      modulePreload: { polyfill: false },
      // What is small is a file, too: the page takes no data: styles or scripts.
      assetsInlineLimit: 0,
    },
  })
}

async function build(typescript) {
  const sources = digestOfSources()
  if (process.argv.includes('--if-changed') && existsSync(MADE_FROM) && readFileSync(MADE_FROM, 'utf8') === sources)
    return
  // What is made halfway is made from nothing.
  rmSync(MADE_FROM, { force: true })
  // Of a source that is gone nothing stays to be published.
  rmSync('dist/src', { recursive: true, force: true })
  execFileSync(process.execPath, [join(typescript, 'bin', 'tsc'), '-p', 'tsconfig.json'], { stdio: 'inherit' })
  // Checked by the compiler, run as bundled only.
  rmSync('dist/src/console', { recursive: true, force: true })
  const vite = await import('vite')
  await bundleProgram(vite)
  await bundleClient(vite)
  await bundleConsole(vite)
  writeFileSync(MADE_FROM, sources)
}

const typescript = packageDir('typescript')
if (typescript) await build(typescript)
else
  console.error(
    existsSync('dist')
      ? 'tidemark: keeping dist/ as it is'
      : 'tidemark: no compiler here and no dist/: run npm ci with development packages',
  )
