// Package nft has the nftables tables that are wanted: sets, chains, and rules made of few expressions. A table is written in nft's syntax
// (String), compiled for the kernel (internal/kernel), and walked for one packet (rules/explain); a table that was read back is compared by
// names and by the digests at the end of the rules' comments (Sign, Matches). It is pure, and decides nothing.
package nft
