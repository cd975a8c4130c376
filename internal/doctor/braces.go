package doctor

import (
	"slices"
	"strings"
)

// block is a line of keepalived.conf(5) or conntrackd.conf(5): its words, and the lines between the braces behind them.
type block struct {
	words []string
	body  []block
}

// maxBlocks bounds how deep braces are read.
const maxBlocks = 16

// readBlocks reads a configuration of words, lines and braces. Comments begin with one of the characters, at the beginning of a word. It is false for
// what it does not understand: braces that do not match, quotes without an end.
func readBlocks(text, comments string) (list []block, ok bool) {
	stack := [][]block{nil}
	var words []string
	end := func() {
		if len(words) > 0 {
			top := len(stack) - 1
			stack[top] = append(stack[top], block{words: words})
			words = nil
		}
	}
	for line := range strings.Lines(text) {
		for rest := line; ; {
			rest = strings.TrimLeft(rest, " \t\r\n")
			if rest == "" || strings.ContainsRune(comments, rune(rest[0])) {
				break
			}
			switch rest[0] {
			case '{':
				if len(stack) == maxBlocks {
					return nil, false
				}
				top := len(stack) - 1
				if len(words) > 0 {
					stack[top] = append(stack[top], block{words: words})
					words = nil
				} else if len(stack[top]) == 0 { // a brace on a line of its own is that of the line before
					return nil, false
				}
				stack = append(stack, nil)
				rest = rest[1:]
			case '}':
				end()
				top := len(stack) - 1
				if top == 0 {
					return nil, false
				}
				body := stack[top]
				stack = stack[:top]
				of := &stack[top-1][len(stack[top-1])-1]
				of.body = append(of.body, body...)
				rest = rest[1:]
			case '"', '\'':
				at := strings.IndexByte(rest[1:], rest[0])
				if at < 0 {
					return nil, false
				}
				words = append(words, rest[1:1+at])
				rest = rest[at+2:]
			default:
				at := strings.IndexAny(rest, " \t\r\n{}")
				if at < 0 {
					at = len(rest)
				}
				words = append(words, rest[:at])
				rest = rest[at:]
			}
		}
		end()
	}
	return stack[0], len(stack) == 1
}

// find returns the first line below that begins with these words, nil: none.
func find(list []block, words ...string) *block {
	for i := range list {
		if b := &list[i]; len(b.words) >= len(words) && slices.EqualFunc(b.words[:len(words)], words, strings.EqualFold) {
			return b
		}
	}
	return nil
}

// all lists the words of these blocks.
func all(list []block) (words []string) {
	for i := range list {
		words = append(words, list[i].words...)
		words = append(words, all(list[i].body)...)
	}
	return words
}
