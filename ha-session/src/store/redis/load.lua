local entry = look(KEYS[1])
if entry.view == 'live' or entry.view == 'superseded' then
  return answer_with_values(KEYS[1], entry)
end
return answer(entry)
