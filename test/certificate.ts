/** A certificate that only this test believes, for 127.0.0.1 and localhost. */
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'

/** As the system has it: no package of ours. */
const OPENSSL = 'openssl'

export interface CertificateFiles {
  readonly cert: string
  readonly key: string
  /** The certificate itself, which is its own authority. */
  readonly ca: string
}

/** Written by openssl, over files that are there. */
export function makeCertificate(dir: string, name = 'server'): CertificateFiles {
  const [cert, key] = [join(dir, `${name}.pem`), join(dir, `${name}.key`)]
  const words = 'req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2'
  const names = ['-subj', `/CN=${name}`, '-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1']
  execFileSync(OPENSSL, [...words.split(' '), ...names, '-keyout', key, '-out', cert], { stdio: 'ignore' })
  return { cert, key, ca: readFileSync(cert, 'utf8') }
}
