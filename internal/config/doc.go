// Package config reads uplinkd's configuration: one strict TOML file that becomes plain, checked, typed values.
//
//	file ─ Load ─► bytes ─ Parse ─┬─ syntax.go    expressions, go on after a broken line
//	                              ├─ document.go  a tree that remembers where each key and value stood
//	                              ├─ reader.go    typed keys: right type, right range, unknown keys
//	                              └─ schema.go    which sections and keys there are, what must fit together
//	                                    │
//	                                    ├─► *Config: every field resolved, defaults filled in
//	                                    └─► Errors:  every mistake as FILE:LINE:COL: message, in order
//
// Nothing is guessed and nothing is ignored: a key that this version does not know, or does not act upon yet, is an
// error of its own. A file is either right as a whole or it yields no Config, so that a bad reload changes nothing.
// The package looks at nothing but the bytes: whether a device exists or a token file can be read is not its business.
package config
