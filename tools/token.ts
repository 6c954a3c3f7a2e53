import { type Command, Option } from 'commander'
import { checkGroups, checkSubject, type IssuerEntry, keysFileOf, readKeys } from '../src/access/keysfile.ts'
import { OPERATIONS } from '../src/access/principal.ts'
import { grantsOf, type Perm, signToken, TOKEN_SECONDS_MAX } from '../src/access/tokens.ts'
import { TidemarkError } from '../src/errors.ts'
import { wrongUsage } from './ask.ts'
import { command, type Run } from './command.ts'
import { spanOf } from './keys.ts'
import type { Terminal } from './terminal.ts'

export const tokenCommand = (terminal: Terminal): Command =>
  command(
    {
      usage: 'token',
      summary: 'sign a token for a client, with an issuer of the keys file',
      more: `What is allowed is operations (${OPERATIONS.join(', ')}), a colon, and a pattern of channels; --allow may be given many times. A token ends after 24h at the latest.`,
      settings: ['data', 'keys', 'json'],
      options: [
        new Option('--sub <name>', 'whom it speaks for; whose cursors it moves'),
        new Option('--allow <operations:pattern>', 'what it may do: read,commit:orders/**').argParser(
          (value: string, before: string | undefined) => (before === undefined ? value : `${before}\n${value}`),
        ),
        new Option('--groups <names>', 'groups whose addressed events it is given, separated by commas'),
        new Option('--expires <time>', 'its end, from now: 1h unless given, 24h at most'),
        new Option('--iss <name>', 'the issuer, by its name or kid, where the file has several'),
      ],
      examples: [
        ["tidemark token --sub anna --allow 'read,commit:orders/**'", 'for an hour'],
        ["tidemark token --sub bot --allow 'append:in/*' --allow 'read:out/*' --expires 24h", 'two grants'],
      ],
    },
    terminal,
    token,
  )

export async function token({ settings, options, terminal }: Run): Promise<void> {
  const { sub, allow, groups, expires = '1h', iss } = options
  if (sub === undefined) throw wrongUsage('token takes --sub, whom it speaks for')
  const seconds = spanOf(String(expires)) / 1_000
  if (seconds < 1 || seconds > TOKEN_SECONDS_MAX) throw wrongUsage('--expires is 1s … 24h')
  const perm = allow === undefined ? [] : String(allow).split('\n').map(readAllow)
  grantsOf(perm)
  const entry = issuerIn(keysFileOf(settings), iss)
  const text = await signToken(entry, {
    sub: checkSubject(sub),
    perm,
    groups: groups === undefined ? [] : checkGroups(String(groups).split(',')),
    seconds,
  })
  await terminal.print(settings.json ? JSON.stringify({ token: text, iss: entry.iss, sub, perm, seconds }) : text)
}

function readAllow(text: string): Perm {
  const colon = text.indexOf(':')
  if (colon < 0) throw wrongUsage(`--allow is operations:pattern, not "${text}"`)
  return { ch: text.slice(colon + 1), ops: text.slice(0, colon).split(',') as Perm['ops'] }
}

/** The issuer with a secret that is meant. @throws not-found, bad-request */
function issuerIn(file: string, named: string | boolean | undefined): IssuerEntry {
  const signers = (readKeys(file)?.issuers ?? []).filter(({ secret }) => secret !== undefined)
  const meant = named === undefined ? signers : signers.filter(({ iss, kid }) => iss === named || kid === named)
  if (meant.length === 1) return meant[0]!
  if (meant.length > 1) throw wrongUsage(`${file} holds several issuers: --iss says which`)
  throw new TidemarkError(
    'not-found',
    `${file} holds no such issuer with a secret: tidemark keys create issuer --iss NAME`,
  )
}
