// Completes package-lock.json: some registries do not list every platform's optional package, npm then leaves
// those edges out of the lock file, and `npm ci` refuses it. Run after every change of the lock file.
import { readFileSync, writeFileSync } from 'node:fs'

const file = 'package-lock.json'
const lock = JSON.parse(readFileSync(file, 'utf8'))
const packages = lock.packages
const OS = /(android|darwin|freebsd|linux|netbsd|openbsd|openharmony|sunos|win32|aix)/
const CPU = /(arm64|x64|ia32|arm(?=-|$)|ppc64|riscv64|s390x|loong64|mips64el|wasm32)/

/** True when npm would find `name` from the package at `from`, walking up the tree. */
function resolves(from, name) {
  for (let at = from; ; ) {
    if (packages[`${at ? `${at}/` : ''}node_modules/${name}`]) return true
    if (!at) return false
    const up = at.lastIndexOf('/node_modules/')
    at = up < 0 ? '' : at.slice(0, up)
  }
}

let added = 0
for (const [from, entry] of Object.entries({ ...packages })) {
  for (const [name, version] of Object.entries(entry.optionalDependencies ?? {})) {
    if (resolves(from, name) || !/^\d/.test(version)) continue
    const base = name.split('/').pop()
    const os = OS.exec(base)?.[1]
    const cpu = CPU.exec(base)?.[1]
    packages[`node_modules/${name}`] = {
      version,
      ...(cpu && { cpu: [cpu] }),
      ...(entry.dev && { dev: true }),
      optional: true,
      ...(os && { os: [os] }),
    }
    added++
  }
}
lock.packages = Object.fromEntries(Object.entries(packages).sort(([a], [b]) => (a < b ? -1 : 1)))
writeFileSync(file, `${JSON.stringify(lock, null, 2)}\n`)
console.log(`package-lock.json: ${added} optional packages named`)
