/** A field to search with. */
export function Search(props: {
  /** What it says while it is empty, without the dots. */
  what: string
  /** What it says to who can't see it, where that is more. */
  label?: string
  /** Characters. */
  most?: number
  value: string
  onSearch: (text: string) => void
}) {
  const { what, label = what, most, value, onSearch } = props
  return (
    <input
      type="search"
      class="search"
      placeholder={`${what} …`}
      aria-label={label}
      spellcheck={false}
      autocomplete="off"
      maxLength={most}
      value={value}
      onInput={({ currentTarget }) => onSearch(currentTarget.value)}
    />
  )
}
